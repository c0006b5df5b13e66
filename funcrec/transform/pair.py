"""Any model as the booster of any other, learning beside it or frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Group
from funcrec.core.model import Model
from funcrec.core.random import child, fold_in
from funcrec.core.tree import tree
from funcrec.transform.derive import feature_names, is_pair


@dataclass(frozen=True, kw_only=True)
class DistilledConfig:
    """Config of :func:`distilled`: the configs of both models, and its own options."""

    light: Any
    booster: Any
    features: tuple[tuple[str, str], ...] = ()
    light_learns_shared: bool = False

    @property
    def n_classes(self) -> int:
        return getattr(self.light, "n_classes", 1)

    @property
    def pairs(self) -> dict[int, int]:
        """The k-th features of both sides belong together."""
        return {k: k for k in range(len(self.features))}


def _read(groups: Sequence[Group]) -> dict[str, Any]:
    """Everything that a model reads, by its name in ``emb``: groups, histories, queries."""
    read: dict[str, Any] = {g.name: g for g in groups}
    for sequence in (s for g in groups for s in g.sequences):
        read[sequence.name] = sequence
        if sequence.query_group is not None:
            read[sequence.query_group.name] = sequence.query_group
    return read


def _run(
    side: str, model: Model, names: Sequence[str], args: tuple, key: Tensor | None
) -> tuple[Tensor, list[Tensor], TensorDict]:
    """Logits, the named outputs, and the new state of one side in training."""
    if not names:
        logits, state = model.apply(*args, key=key, train=True)
        return logits, [], state
    assert model.outputs is not None
    out, state = model.outputs(*args, key=key, train=True)
    missing = [name for name in ("logits", *names) if name not in out]
    if missing:  # outputs that somebody wrote: _check_side could not know
        fail(ConfigError, f"distilled: outputs of the {side} model", got=list(out), expected=f"{missing} among them")
    return out["logits"], [out[name] for name in names], state


def _check_side(side: str, model: Model, names: Sequence[str]) -> None:
    """Raise ConfigError unless a pair can train this model and compare these outputs of it."""
    if is_pair(model.config):
        seen = f"{type(model.config).__name__}, a light net with a booster of its own"
        fix = "take another model, or for the booster frozen(model, params, state) of one trained by its own objective"
        fail(ConfigError, f"distilled: the {side} model", got=seen, expected="a model whose loss moves it all", fix=fix)
    known = feature_names(model.config)
    if names and (model.outputs is None or (known is not None and not {*names} <= {*known, "logits"})):
        has = "no outputs" if model.outputs is None else f'outputs "logits" and {list(known or ())}'
        seen, fix = f"{list(names)} of a model with {has}", "name them with with_features(model, names, function)"
        fail(ConfigError, f"distilled: features of the {side} model", got=seen, fix=fix)


def distilled(
    light: Model,
    booster: Model,
    *,
    features: Sequence[tuple[str, str]] = (),
    light_learns_shared: bool = False,
) -> Model:
    """A light model with another as its booster; a model as RocketLaunching is, for ``distillation`` and serving.

    ``params`` and ``state`` are ``{"booster", "light"}``; groups are those of both, once each. ``apply`` is the light
    model alone and reads nothing of the booster. ``outputs``: ``{"light": [B, C]}``, in training also ``"booster"``
    ``[B, C]`` and for the k-th of ``features`` ``"light_<k>"`` and ``"booster_<k>"``.

    Args:
        features: pairs (output of ``light``, output of ``booster``) for the similarities, by their names in the models'
            ``outputs``, where the logits are ``"logits"``. Any model has outputs after
            :func:`~funcrec.transform.derive.with_features`.
        light_learns_shared: whether the light model's gradient reaches the embeddings of the groups and histories that
            both read. False is RocketLaunching's rule: there they follow the booster. What the light model alone reads,
            it always learns.

    Neither side may be a pair itself, RocketLaunching or one of these: no loss here would move its own booster, nor the
    embeddings at which its light net stops the gradient. A :func:`~funcrec.transform.derive.frozen` pair may be, and so
    models are distilled in a chain.

    Raises:
        ConfigError: logits of two widths, one name for two different groups, features that a model does not have, a
            pair that is not frozen.
    """
    features = tuple((a, b) for a, b in features)
    config = DistilledConfig(
        light=light.config, booster=booster.config, features=features, light_learns_shared=light_learns_shared
    )
    classes = {side: getattr(m.config, "n_classes", 1) for side, m in (("light", light), ("booster", booster))}
    if classes["light"] != classes["booster"]:
        fail(ConfigError, "distilled: n_classes", got=classes, expected="one number for both models")
    _check_side("light", light, [a for a, _ in features])
    _check_side("booster", booster, [b for _, b in features])
    by_light, by_booster = _read(light.groups), _read(booster.groups)
    shared = [name for name in by_light if name in by_booster]
    for name in shared:
        if by_light[name] != by_booster[name]:
            seen = f"{by_light[name]} in the light model, {by_booster[name]} in the booster"
            fail(ConfigError, f"distilled: group {name!r}", got=seen, expected="one group", fix="rename one of them")
    groups = tuple(dict.fromkeys((*light.groups, *booster.groups)))
    stopped = [] if light_learns_shared else shared

    def init(key: Tensor) -> tuple[TensorDict, TensorDict]:
        (pb, sb), (pl, sl) = booster.init(fold_in(key, "booster")), light.init(fold_in(key, "light"))
        return tree({"booster": pb, "light": pl}), tree({"booster": sb, "light": sl})

    def light_inputs(params, emb, batch, state) -> tuple:
        seen = {name: x.detach() if name in stopped else x for name, x in emb.items()}
        return _part(params, "light"), TensorDict(seen, emb.batch_size), batch, _part(state, "light")

    def apply(params, emb, batch, state, *, key=None, train=False) -> tuple[Tensor, TensorDict]:
        at = light_inputs(params, emb, batch, state)
        logits, moved = light.apply(*at, key=child(key, "light"), train=train)
        return logits, tree(dict(state.items()) | {"light": moved})

    def outputs(params, emb, batch, state, *, key=None, train=False) -> tuple[dict[str, Tensor], TensorDict]:
        if not train:
            logits, state = apply(params, emb, batch, state)
            return {"light": logits}, state
        here = light_inputs(params, emb, batch, state)
        there = _part(params, "booster"), emb, batch, _part(state, "booster")
        logits, mine, moved = _run("light", light, [a for a, _ in features], here, child(key, "light"))
        boosted, theirs, kept = _run("booster", booster, [b for _, b in features], there, child(key, "booster"))
        out = {"light": logits, "booster": boosted}
        out |= {f"light_{k}": x for k, x in enumerate(mine)} | {f"booster_{k}": x for k, x in enumerate(theirs)}
        return out, tree({"booster": kept, "light": moved})

    return Model(init, apply, config, groups, outputs)


def _part(t: TensorDict, name: str) -> TensorDict:
    """A subtree; an empty one where it holds nothing and was dropped."""
    return t.get(name, TensorDict({}, []))
