"""From looked-up vectors to predictions and losses under the original's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import DataError, fail
from funcrec.core.random import child
from funcrec.core.tree import leaves, tree
from funcrec.interop.easyrec import heads
from funcrec.interop.easyrec.messages import shortest
from funcrec.layers.inputs import inputs
from funcrec.layers.variational_dropout import variational_penalty
from funcrec.transform.rocket import rocket_parts

if TYPE_CHECKING:
    from funcrec.interop.easyrec.system import System

Outputs = dict[str, Tensor]
"""``{"": logits}``, or by net those of RocketLaunching, beside its hidden layers."""


def cast(features: TensorDict, params: TensorDict) -> TensorDict:
    """Floats in the dtype of the parameters."""
    dtype = leaves(params)[0].dtype
    if all(not x.is_floating_point() or x.dtype == dtype for x in leaves(features)):
        return features
    cast_ = features.apply(lambda x: x.to(dtype) if x.is_floating_point() else x)
    assert cast_ is not None
    return cast_


def run(
    system: System,
    params: TensorDict,
    emb: TensorDict,
    features: TensorDict,
    state: TensorDict,
    *,
    train: bool,
    key: Tensor | None,
) -> tuple[Outputs, TensorDict]:
    """The outputs, and the whole new state: groups that the model does not read move their statistics, too."""
    entries: dict[str, Any] = dict(state.items())
    own = tree({name: part for name, part in entries.items() if name not in ("unused", "batches")})
    at = child(key, "model")
    if system.model.outputs is not None:
        out, new = system.model.outputs(params, emb, features, own, key=at, train=train)
    else:
        logits, new = system.model.apply(params, emb, features, own, key=at, train=train)
        out = {"": logits}
    if not train:
        return out, state
    moved: dict[str, Any] = dict(new.items())
    if "unused" in state.keys():
        held = state["unused"]
        if leaves(held):
            at = child(key, "unused")
            _, held = inputs(params["unused"], system.moving, emb, features, held, key=at, train=True)
        moved["unused"] = held
    moved["batches"] = state["batches"] + 1.0 if leaves(state["batches"]) else state["batches"]
    return out, tree(moved)


def predictions(system: System, out: Outputs) -> dict[str, Tensor]:
    """By the names of the losses; hidden layers of RocketLaunching where its config compares them."""
    if "" in out:
        return heads.predictions(system.loss_kinds, out[""])
    nets = [net for net in ("light", "booster") if net in out]
    named = {k: v for net in nets for k, v in heads.predictions(system.loss_kinds, out[net], f"_{net}").items()}
    compared = system.config.model_config.rocket_launching.feature_based_distillation
    return named | ({k: v for k, v in out.items() if k not in nets} if compared else {})


def label_losses(system: System, out: Outputs, features: TensorDict) -> dict[str, Tensor]:
    """The config's losses, and RocketLaunching's hints and similarities.

    Raises:
        DataError: no labels, or not the sample weights that the config names.
    """
    label, weight = features.get("label", None), features.get("weight", None)
    if label is None:
        fail(DataError, "losses: no labels in the batch", fix="give them to System.batch(labels=...)")
    named = system.config.data_config.sample_weight_fields
    if weight is None and named:
        what = f"losses: no sample weights {named[0]!r} in the batch"
        fail(DataError, what, fix="give them to System.batch(sample_weights=...)")
    loss = heads.loss_functions(list(system.config.model_config.losses), features)
    if "" in out:
        return {name: f(out[""], label, weight) for name, f in loss.items()}
    config = system.config.model_config.rocket_launching
    pairs = system.model.config.pairs if config.feature_based_distillation else {}
    # COSINE is 0; the original computes one and the same distance for the other two.
    similarity = ("batch_euclid" if config.feature_distillation_function else "cosine") if pairs else None
    return rocket_parts(out, label, weight, loss=loss, similarity=similarity, pairs=pairs or None)


def penalties(system: System, params: TensorDict, rows: int) -> dict[str, Tensor]:
    """``<group>_feature_p_loss`` of every group with variational dropout, read by the model or not."""
    weight = shortest(system.config.model_config.variational_dropout.regularization_lambda)
    return {
        f"{group.name}_feature_p_loss": variational_penalty(params[top]["variational"][group.name], rows, weight)
        for top, groups in (("inputs", system.model.groups), ("unused", system.unused))
        for group in groups
        if group.variational
    }


def losses(
    system: System,
    params: TensorDict,
    emb: TensorDict,
    features: TensorDict,
    state: TensorDict,
    *,
    train: bool,
    key: Tensor | None,
) -> tuple[Tensor, tuple[dict[str, Tensor], dict[str, Tensor], TensorDict]]:
    """``(total, (losses, predictions, state))``."""
    features = cast(features, params)
    out, state = run(system, params, emb, features, state, train=train, key=key)
    found = label_losses(system, out, features) | penalties(system, params, features.batch_size[0])
    return torch.stack(list(found.values())).sum(), (found, predictions(system, out), state)
