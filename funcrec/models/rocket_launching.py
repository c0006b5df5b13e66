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
from funcrec.layers.inputs import init_inputs
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.mlp import MLPConfig, init_mlp, mlp_hidden
from funcrec.models.checks import check_classes
from funcrec.models.parts import begin


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

    def __post_init__(self) -> None:
        check_classes("RocketLaunching", self.n_classes)

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

    def run(params, emb, batch, state, key, train, boosted) -> tuple[dict[str, Tensor], TensorDict]:
        """All outputs of the light net, and of the booster if ``boosted``; an idle net's state stays as it came."""
        x, part, moved = begin((c.group,), params, emb, batch, state, key=key, train=train)
        h = x[c.group.name]
        if c.shared:
            h = part("shared", c.shared, h)
        nets = {"light": (c.light, h if c.light_learns_shared else h.detach(), tuple(pairs))}
        if boosted:
            nets["booster"] = (c.booster, h, tuple(pairs.values()))
        out, new = {}, dict(state.items()) | moved
        for name, (net, seen, compared) in nets.items():
            own, held = params[name], state[name]["mlp"]
            hidden, held = mlp_hidden(own["mlp"], seen, held, net, key=child(key, name), train=train)
            new[name] = tree({"mlp": held})
            out[name] = linear(own["head"], hidden[-1])
            out |= {f"{name}_{i}": hidden[i] for i in compared if boosted}
        return out, tree(new)

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        out, new = run(params, emb, batch, state, key, train, boosted=False)
        return out["light"], new

    def outputs(params, emb, batch, state, *, key=None, train=False) -> tuple[dict[str, Tensor], TensorDict]:
        return run(params, emb, batch, state, key, train, boosted=train)

    return Model(init, apply, config, (c.group,), outputs)
