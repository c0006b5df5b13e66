"""Any model as the booster of any other, learning beside it or frozen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Group
from funcrec.core.model import Model
from funcrec.core.random import child, fold_in
from funcrec.core.tree import map_leaves, tree


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
    logits_name = "light" if "light" in out else "logits"
    missing = [name for name in (logits_name, *names) if name not in out]
    if missing:
        fail(ConfigError, f"distilled: outputs of the {side} model", got=list(out), expected=f"{missing} among them")
    return out[logits_name], [out[name] for name in names], state


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
            own ``outputs``, where the logits are called ``"logits"`` or ``"light"``.
        light_learns_shared: whether the light model's gradient reaches the embeddings of the groups and histories that
            both read. False is RocketLaunching's rule: there they follow the booster. What the light model alone reads,
            it always learns.

    Raises:
        ConfigError: logits of two widths, one name for two different groups, features of a model without ``outputs``.
    """
    features = tuple((a, b) for a, b in features)
    config = DistilledConfig(
        light=light.config, booster=booster.config, features=features, light_learns_shared=light_learns_shared
    )
    classes = {side: getattr(m.config, "n_classes", 1) for side, m in (("light", light), ("booster", booster))}
    if classes["light"] != classes["booster"]:
        fail(ConfigError, "distilled: n_classes", got=classes, expected="one number for both models")
    silent = [side for side, m in (("light", light), ("booster", booster)) if features and m.outputs is None]
    if silent:
        fail(ConfigError, "distilled: features", got=f"{silent} without outputs", expected="models that have outputs")
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


def frozen(model: Model, params: TensorDict, state: TensorDict) -> Model:
    """A trained model as a constant, to be the booster of another: no parameters, no state, no gradient, no dropout.

    It runs in evaluation mode whatever ``train`` says, and its output has no gradient: neither its weights nor the
    embeddings that it reads move. (Their rows still pass through the optimizer: leave them out of weight decay.)
    ``params`` and ``state`` stay on their device.

    As a booster it has a constant for its loss of the labels, to which ``factors`` may give 0, and it teaches no
    embedding: ``distilled(light, frozen(…), light_learns_shared=True)`` lets the light model move those it shares.
    """
    fixed, statistics = map_leaves(torch.Tensor.detach, params), map_leaves(torch.Tensor.detach, state)
    run = model.outputs

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

    return Model(init, apply, model.config, model.groups, None if run is None else outputs)
