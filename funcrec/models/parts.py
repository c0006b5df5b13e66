"""How a model applies its named parts: each with its own entry of params and state, and its own child of the key."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tensordict import TensorDict
from torch import Tensor

from funcrec.core.groups import Group
from funcrec.core.random import child
from funcrec.layers.inputs import inputs
from funcrec.layers.mlp import MLPConfig, mlp


def begin(
    groups: Sequence[Group],
    params: TensorDict,
    emb: TensorDict,
    batch: TensorDict,
    state: TensorDict,
    *,
    key: Tensor | None,
    train: bool,
) -> tuple[dict[str, Tensor], Callable[[str, MLPConfig, Tensor], Tensor], dict[str, TensorDict]]:
    """The start of every ``apply``: read the groups, whose own parameters are ``params["inputs"]``.

        x, part, new = begin(groups, params, emb, batch, state, key=key, train=train)
        y = part("deep", config.deep_mlp, x["deep"])
        return linear(params["head"], y), tree(new)

    Returns:
        The vector of each group by its name, ``[B, group.width]``; ``part(name, config, x)``, the output of the MLP
        of that name; and the new state, to which each part adds its entry.
    """
    new: dict[str, TensorDict] = {}

    def part(name: str, config: MLPConfig, x: Tensor) -> Tensor:
        y, new[name] = mlp(params[name], x, state[name], config, key=child(key, name), train=train)
        return y

    at, own = child(key, "inputs"), params.get("inputs", None)
    x, new["inputs"] = inputs(own, groups, emb, batch, state["inputs"], key=at, train=train)
    return x, part, new
