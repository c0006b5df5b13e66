"""Models made of others: with features by name, to be compared in a distillation, or frozen, as a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.model import Model
from funcrec.core.tree import map_leaves, tree


class FeaturesFn(Protocol):
    """Takes what ``Model.apply`` takes and returns features ``[B, width]``, one for each name, without a state."""

    def __call__(
        self,
        params: TensorDict,
        emb: TensorDict,
        batch: TensorDict,
        state: TensorDict,
        *,
        key: Tensor | None = None,
        train: bool = False,
    ) -> Sequence[Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class FeaturedConfig:
    """Config of :func:`with_features`: that of the model, and the names of its features."""

    model: Any
    features: tuple[str, ...]

    @property
    def n_classes(self) -> int:
        return getattr(self.model, "n_classes", 1)


@dataclass(frozen=True, kw_only=True)
class FrozenConfig:
    """Config of :func:`frozen`: that of the model."""

    model: Any

    @property
    def n_classes(self) -> int:
        return getattr(self.model, "n_classes", 1)


def is_pair(config: Any) -> bool:
    """Whether this is the config of a light net and its booster, which says what layers of the two are ``pairs``."""
    return is_pair(config.model) if isinstance(config, FeaturedConfig) else hasattr(config, "pairs")


def feature_names(config: Any) -> tuple[str, ...] | None:
    """The names given to :func:`with_features`; None where it was not used."""
    config = config.model if isinstance(config, FrozenConfig) else config
    return config.features if isinstance(config, FeaturedConfig) else None


def with_features(model: Model, names: Sequence[str], features: FeaturesFn) -> Model:
    """The model with ``outputs``: ``"logits"``, and what ``features`` returns under these names.

    So the hidden layers of any model can be compared with those of any other, without a change to the model:

        def hidden(params, emb, batch, state, *, key=None, train=False):
            x, _ = inputs(params["inputs"], groups, emb, batch, state["inputs"])
            return mlp_hidden(params["deep"], x["deep"], state["deep"], deep, train=train)[0]

        with_features(model, ["deep_0", "deep_1"], hidden)

    ``apply`` is untouched. ``features`` gets the model's own parameters, state and key, and computes again what it
    needs of the model: with dropout it has to fold the key as the model does.

    Raises:
        ConfigError: no names, one twice, or ``"logits"`` among them; when called, another number of features.
    """
    names = tuple(names)
    if not names or len({*names, "logits"}) != len(names) + 1:
        fail(ConfigError, "with_features: names", got=names, expected='one a feature, each once, none of them "logits"')

    def outputs(params, emb, batch, state, *, key=None, train=False) -> tuple[dict[str, Tensor], TensorDict]:
        logits, moved = model.apply(params, emb, batch, state, key=key, train=train)
        found = features(params, emb, batch, state, key=key, train=train)
        if isinstance(found, Tensor) or len(found) != len(names):
            seen = "a tensor" if isinstance(found, Tensor) else f"{len(found)} features"
            fail(ConfigError, "with_features: features", got=seen, expected=f"a sequence of one for each of {names}")
        return {"logits": logits} | dict(zip(names, found, strict=True)), moved

    config = FeaturedConfig(model=model.config, features=names)
    return Model(model.init, model.apply, config, model.groups, outputs)


def frozen(model: Model, params: TensorDict, state: TensorDict) -> Model:
    """A trained model as a constant, to be the booster of another: no parameters, no state, no gradient, no dropout.

    It runs in evaluation mode whatever ``train`` says, and its output has no gradient: neither its weights nor the
    embeddings that it reads move. (Their rows still pass through the optimizer: leave them out of weight decay.)
    ``params`` and ``state`` stay on their device. Of a pair, RocketLaunching or a distilled one, it is the light net
    that is left; its layers need :func:`with_features`, because in evaluation a pair's ``outputs`` are its logits.

    As a booster it has a constant for its loss of the labels, to which ``factors`` may give 0, and it teaches no
    embedding: ``distilled(light, frozen(…), light_learns_shared=True)`` lets the light model move those it shares.
    """
    fixed, statistics = map_leaves(torch.Tensor.detach, params), map_leaves(torch.Tensor.detach, state)
    run = None if hasattr(model.config, "pairs") else model.outputs

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        del key
        return tree(), tree()

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        del params, key, train
        return model.apply(fixed, emb, batch, statistics)[0].detach(), state

    def outputs(params, emb, batch, state, *, key=None, train=False) -> tuple[dict[str, Tensor], TensorDict]:
        del params, key, train
        assert run is not None
        return {name: x.detach() for name, x in run(fixed, emb, batch, statistics)[0].items()}, state

    return Model(init, apply, FrozenConfig(model=model.config), model.groups, None if run is None else outputs)
