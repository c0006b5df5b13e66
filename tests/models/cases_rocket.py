"""RocketLaunching and distilled pairs for the contract table: ``name -> (make, config, stochastic)``.

``REACHED``: the tops of ``params``, and the groups of ``emb``, that the gradient of ``apply`` reaches; not the rest.
"""

from funcrec.core.groups import Field, Group
from funcrec.layers.mlp import MLPConfig
from funcrec.models.rocket_launching import RocketLaunchingConfig, rocket_launching

GROUP = Group("all", (Field("x", 1, dense=True), Field("a", 3), Field("b", 4), Field("y", 1, dense=True)))


def _mlp(*units: int, **options) -> MLPConfig:
    return MLPConfig(hidden_units=units, activation="nn.Tanh", **options)


CASES = {
    "rocket": (rocket_launching, RocketLaunchingConfig(group=GROUP, booster=_mlp(6, 4, 3), light=_mlp(4, 3)), False),
    "rocket_bn": (
        rocket_launching,
        RocketLaunchingConfig(
            group=GROUP,
            shared=_mlp(5, use_bn=True),
            booster=_mlp(4, 4, use_bn=True),
            light=_mlp(4, 4, use_bn=True),
            n_classes=3,
        ),
        False,
    ),
    "rocket_dropout": (
        rocket_launching,
        RocketLaunchingConfig(
            group=GROUP, shared=_mlp(5, dropout=0.5), booster=_mlp(6, 4, dropout=0.5), light=_mlp(4, dropout=0.5)
        ),
        True,
    ),
    "rocket_paper": (
        rocket_launching,
        RocketLaunchingConfig(group=GROUP, shared=_mlp(5), booster=_mlp(6, 4), light=_mlp(4), light_learns_shared=True),
        False,
    ),
}
REACHED = dict.fromkeys(CASES, ("light",)) | {"rocket_paper": ("light", "shared", "all")}
