"""RocketLaunching: a light net for serving learns beside a booster net, on a trunk that only the booster moves."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict import TensorDict
from torch import Tensor

from funcrec.core.groups import Group
from funcrec.core.init import Initializer
from funcrec.core.matching import matching_layers
from funcrec.core.model import Model
from funcrec.core.random import child, fold_in
from funcrec.core.tree import tree
from funcrec.layers.inputs import init_inputs, inputs
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mlp import MLPConfig, init_mlp, mlp, mlp_hidden


@dataclass(frozen=True, kw_only=True)
class RocketLaunchingConfig:
    """Config of :func:`rocket_launching`.

    Attributes:
        group: the one group it reads.
        shared: MLP below both nets, or None: both read the group vector itself.
        booster: the large net, for training only.
        light: the net that serves.
        light_learns_shared: whether the light net's losses reach the shared MLP and the embeddings too, as in the
            paper; TorchEasyRec stops them there.
        n_classes: width of both logits.
        weight, bias_init: initializers of the two output layers; None: U(±1/√fan_in).
    """

    group: Group
    shared: MLPConfig | None = None
    booster: MLPConfig
    light: MLPConfig
    light_learns_shared: bool = False
    n_classes: int = 1
    weight: Initializer | None = None
    bias_init: Initializer | None = None

    @property
    def pairs(self) -> dict[int, int]:
        """The layers that can be compared, light to booster; see :func:`~funcrec.core.matching.matching_layers`."""
        return matching_layers(self.light.hidden_units, self.booster.hidden_units)


def rocket_launching(config: RocketLaunchingConfig) -> Model:
    """Logits ``[B, C]`` of the light net; the booster's too, and hidden layers, in ``outputs`` while training.

    With ``h = MLP_shared(g)``, or ``h = g`` without a shared MLP:

        ``y_light = Linear(MLP_light(stop_gradient(h)))``,  ``y_booster = Linear(MLP_booster(h))``.

    So a loss of the light net moves ``params["light"]`` alone, and trunk and embeddings learn from the booster: that is
    what ``outputs`` and ``funcrec.transform.rocket_objective`` train. With ``light_learns_shared`` the light net reads
    h itself and moves trunk and embeddings as well. ``params``: ``{"inputs", "shared", "booster": {"mlp", "head"},
    "light": {"mlp", "head"}}``; ``state`` likewise, without heads.

    * ``apply`` returns the light net's logits, in training too. It reads nothing of the booster, whose subtrees of
      ``params`` and ``state`` may even be absent; the booster's running statistics come back as they went in.
    * ``outputs`` returns ``{"light": [B, C]}`` in evaluation. In training, with the light logits of ``apply``, also
      ``"booster"`` ``[B, C]``, and ``"light_<i>"`` and ``"booster_<j>"`` ``[B, width]`` for each ``config.pairs``: the
      output of that layer after its activation and dropout. Only here do the booster's running statistics move.

    Reference: Zhou et al. 2018, "Rocket Launching: A Universal and Efficient Framework for Training Well-Performing
    Light Net", section 3; TorchEasyRec's form of it, which stops the light net's gradient at the trunk.
    """
    c = config
    pairs = c.pairs
    trunk_out = c.shared.output_dim if c.shared else c.group.width

    def init_net(key: Tensor, net: MLPConfig) -> tuple[dict, dict]:
        params, state = init_mlp(fold_in(key, "mlp"), trunk_out, net)
        final = init_linear(fold_in(key, "head"), net.output_dim, c.n_classes, weight=c.weight, bias_init=c.bias_init)
        return {"mlp": params, "head": final}, {"mlp": state}

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        params: dict = {}
        state: dict = {}
        params["inputs"], state["inputs"] = init_inputs(fold_in(key, "inputs"), (c.group,))
        if c.shared:
            params["shared"], state["shared"] = init_mlp(fold_in(key, "shared"), c.group.width, c.shared)
        params["booster"], state["booster"] = init_net(fold_in(key, "booster"), c.booster)
        params["light"], state["light"] = init_net(fold_in(key, "light"), c.light)
        return tree(params), tree(state)

    def trunk(params, emb, batch, state, key, train) -> tuple[Tensor, dict]:
        """``h``, and the new state with the two nets' as it came."""
        new = dict(state.items())
        x, new["inputs"] = inputs(
            params.get("inputs", None), (c.group,), emb, batch, state["inputs"], key=child(key, "inputs"), train=train
        )
        h = x[c.group.name]
        if c.shared:
            h, new["shared"] = mlp(
                params["shared"], h, state["shared"], c.shared, key=child(key, "shared"), train=train
            )
        return h, new

    def run(net, name, params, h, state, key, train) -> tuple[Tensor, list[Tensor], dict]:
        """Logits and hidden layers of one net, and its new state."""
        own, held = params[name], state[name]
        hidden, moved = mlp_hidden(own["mlp"], h, held["mlp"], net, key=child(key, name), train=train)
        return linear(own["head"], hidden[-1]), hidden, {"mlp": moved}

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        h, new = trunk(params, emb, batch, state, key, train)
        seen = h if c.light_learns_shared else h.detach()
        logits, _, new["light"] = run(c.light, "light", params, seen, state, key, train)
        return logits, tree(new)

    def outputs(params, emb, batch, state, *, key=None, train=False) -> tuple[dict[str, Tensor], TensorDict]:
        h, new = trunk(params, emb, batch, state, key, train)
        seen = h if c.light_learns_shared else h.detach()
        logits, light, new["light"] = run(c.light, "light", params, seen, state, key, train)
        if not train:
            return {"light": logits}, tree(new)
        boosted, booster, new["booster"] = run(c.booster, "booster", params, h, state, key, train)
        out = {"light": logits, "booster": boosted}
        out |= {f"light_{i}": light[i] for i in pairs}
        out |= {f"booster_{j}": booster[j] for j in pairs.values()}
        return out, tree(new)

    return Model(init, apply, config, (c.group,), outputs)
