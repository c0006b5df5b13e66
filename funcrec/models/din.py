"""DIN, as multi-tower DIN: towers over feature groups beside encoders of histories."""

from __future__ import annotations

from dataclasses import dataclass

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Encoded, Group
from funcrec.core.init import Initializer
from funcrec.core.model import Model
from funcrec.layers.mlp import MLPConfig
from funcrec.models.checks import check_classes
from funcrec.models.multi_tower import MultiTowerConfig, Tower, check_towers, multi_tower

INTERESTS = "interests"  # the usual ``config.interests_name``


@dataclass(frozen=True, kw_only=True)
class DINConfig:
    """Config of :func:`din`.

    Attributes:
        towers: towers over groups of fields; may be empty.
        interests: histories and their encoders: target attention (``DINEncoder``) makes it DIN, any other encoder in
            its place, mean pooling say, a model to compare it with.
        final: the MLP over [towers; interests].
        n_classes: width of the logits.
        weight, bias_init: initializers of the output layer; None: U(±1/√fan_in).
    """

    towers: tuple[Tower, ...] = ()
    interests: tuple[Encoded, ...]
    final: MLPConfig
    n_classes: int = 1
    weight: Initializer | None = None
    bias_init: Initializer | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "towers", tuple(self.towers))
        object.__setattr__(self, "interests", tuple(self.interests))
        check_classes("DIN", self.n_classes)
        if not self.interests:
            fail(
                ConfigError,
                "DIN: interests",
                got="none",
                expected="at least one",
                fix="without histories, use MultiTower",
            )
        check_towers("DIN", self.all_towers)

    @property
    def interests_name(self) -> str:
        """Under which params and state hold the interests' encoders: "interests", or what no tower's group is called.

        Groups are the caller's to name: this one exists only inside of the model and gives way.
        """
        taken, name = {t.group.name for t in self.towers}, INTERESTS
        while name in taken:
            name += "_"
        return name

    @property
    def all_towers(self) -> tuple[Tower, ...]:
        """The towers, then the interests as a tower of encodings without an MLP."""
        return (*self.towers, Tower(Group(self.interests_name, encoded=self.interests)))


def din(config: DINConfig) -> Model:
    """Logits ``[B, C]``: ``y = Linear(MLP_final([MLP_1(g_1); …; MLP_n(g_n); a_1; …; a_m]))``, ``a_i`` the interests.

    The parameters of interest i are ``params["inputs"]["encoders"][config.interests_name][str(i)]``, the others those
    of :func:`~funcrec.models.multi_tower.multi_tower`.

    Reference: Zhou et al. 2018, "Deep Interest Network for Click-Through Rate Prediction", figure 2; the towers are
    those of TorchEasyRec's ``MultiTowerDIN``.
    """
    c = config
    model = multi_tower(
        MultiTowerConfig(
            towers=c.all_towers, final=c.final, n_classes=c.n_classes, weight=c.weight, bias_init=c.bias_init
        )
    )
    return model._replace(config=config)
