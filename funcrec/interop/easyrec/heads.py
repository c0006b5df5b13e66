"""Predictions, losses and metrics under the original's names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec import metrics
from funcrec.core.errors import ConfigError, DataError, fail
from funcrec.interop.easyrec.messages import Message, shortest
from funcrec.losses import bce, focal, jrc, l2, softmax_cross_entropy
from funcrec.metrics import Metric

Loss = Callable[..., Tensor]
_CLASSES = {
    "binary_cross_entropy": ("must be 1", lambda c: c == 1),
    "binary_focal_loss": ("must be 1", lambda c: c == 1),
    "l2_loss": ("must be 1", lambda c: c == 1),
    "softmax_cross_entropy": ("must be greater than 1", lambda c: c > 1),
    "jrc_loss": ("must be 2", lambda c: c == 2),
}


def check_losses(configs: list[Message], n_classes: int) -> tuple[str, ...]:
    """The kinds of the losses, each once.

    Raises:
        ConfigError: no loss, an unknown one, one twice, or a number of classes that a loss cannot use.
    """
    kinds = [c.WhichOneof("loss") for c in configs]
    if not kinds:
        fail(ConfigError, "model_config.losses", got="none", expected="at least one", fix="add a loss")
    for kind in kinds:
        if kind is None:
            fail(ConfigError, "model_config.losses", got="an empty entry", expected=f"one of {sorted(_CLASSES)}")
        if kind not in _CLASSES:
            fail(ConfigError, f"loss[{kind}] is not supported yet", expected=f"one of {sorted(_CLASSES)}")
        rule, holds = _CLASSES[kind]
        if not holds(n_classes):
            fail(ConfigError, f"num_class {rule} when loss type is {kind}", got=n_classes, fix="change num_class")
    if len(set(kinds)) != len(kinds):
        fail(ConfigError, "model_config.losses: one kind twice", got=kinds, fix="the original keeps one of each kind")
    # The losses check their own numbers: two rows are enough to hear of it now, not in the first step.
    two = TensorDict({"session": torch.zeros(2, dtype=torch.int64)}, [2])
    for kind, loss in loss_functions(configs, two).items():
        try:
            loss(torch.zeros(2, n_classes), torch.tensor([0, 1]), None)
        except ConfigError as e:
            raise ConfigError(f"model_config.losses: {kind}: {e}") from None
    return tuple(kinds)


def predictions(kinds: tuple[str, ...], logits: Tensor, suffix: str = "") -> dict[str, Tensor]:
    """What each loss calls the outputs of logits ``[B, C]``; the entries of several losses are joined."""
    out: dict[str, Tensor] = {}
    for kind in kinds:
        if kind in ("binary_cross_entropy", "binary_focal_loss"):
            out[f"logits{suffix}"] = logits.squeeze(1)
            out[f"probs{suffix}"] = torch.sigmoid(logits.squeeze(1))
        elif kind == "l2_loss":
            out[f"y{suffix}"] = logits.squeeze(1)
        else:
            probs = torch.softmax(logits, dim=1)
            out[f"logits{suffix}"], out[f"probs{suffix}"] = logits, probs
            if logits.shape[1] == 2:
                out[f"probs1{suffix}"] = probs[:, 1]
    return out


def loss_functions(configs: list[Message], features: TensorDict) -> dict[str, Loss]:
    """``loss(logits, labels, weights) -> scalar`` by the original's name."""
    out: dict[str, Loss] = {}
    for config in configs:
        kind = config.WhichOneof("loss")
        c = getattr(config, kind)
        if kind == "binary_cross_entropy":
            out[kind] = partial(bce, label_smoothing=shortest(c.label_smoothing))
        elif kind == "softmax_cross_entropy":
            out[kind] = partial(softmax_cross_entropy, label_smoothing=shortest(c.label_smoothing))
        elif kind == "binary_focal_loss":
            out[kind] = partial(focal, gamma=shortest(c.gamma), alpha=shortest(c.alpha))
        elif kind == "jrc_loss":
            sessions = features.get("session", None)
            if sessions is None:
                what = f"jrc_loss: no ids of the session feature {c.session_name!r} in the batch"
                fail(DataError, what, fix="give them to System.batch(sparse=...)")
            out[kind] = partial(jrc, sessions=sessions, alpha=shortest(c.alpha))
        else:
            out[kind] = l2
    return out


def _metric(kind: str, c: Message, n_classes: int) -> Metric:
    if kind in ("auc", "grouped_auc") and n_classes > 2:
        fail(ConfigError, f"num_class must less than 2 when metric type is {kind}", got=n_classes, expected="1 or 2")
    if kind == "auc":
        return metrics.binned_auc(thresholds=c.thresholds)
    if kind == "multiclass_auc":
        return metrics.multiclass_auc(n_classes, thresholds=c.thresholds, average=c.average)
    if kind == "grouped_auc":
        return metrics.gauc()
    if kind == "accuracy":
        return metrics.accuracy(threshold=shortest(c.threshold), top_k=c.top_k)
    if kind == "mean_absolute_error":
        return metrics.mean_absolute_error()
    if kind == "mean_squared_error":
        return metrics.mean_squared_error()
    if kind == "normalized_entropy":
        return metrics.normalized_entropy(eta=shortest(c.eta))
    if kind == "xauc":
        return metrics.xauc(in_batch=c.in_batch)
    if kind == "grouped_xauc":
        return metrics.grouped_xauc()
    fail(ConfigError, f"{kind} is not supported for this model", fix="remove it from metrics")


def read_metrics(configs: list[Message], n_classes: int, suffix: str) -> dict[str, Metric]:
    """The metrics by name. XAUC is exact here, over all pairs, where the original samples some.

    Raises:
        ConfigError: a metric that ranking models do not have, or that cannot be computed of these classes.
    """
    out = {}
    for config in configs:
        kind = config.WhichOneof("metric")
        if kind is None:
            fail(ConfigError, "model_config.metrics", got="an empty entry", expected="one kind of metric in each")
        out[kind + suffix] = _metric(kind, getattr(config, kind), n_classes)
    return out


def check_metrics(metrics: list[str], losses: tuple[str, ...]) -> None:
    """Raise ConfigError on metrics, of training too, that no ranking model has or that need another loss."""
    if "recall_at_k" in metrics:
        fail(ConfigError, "recall_at_k is not supported for this model", fix="remove it")
    for kind in ("mean_absolute_error", "mean_squared_error"):
        if kind in metrics and "l2_loss" not in losses:
            seen, fix = f"losses {list(losses)}", "it compares y with the label: add l2_loss, or remove the metric"
            fail(ConfigError, f"metric {kind}", got=seen, expected="l2_loss among them", fix=fix)


def metric_inputs(
    config: Message, predicted: dict[str, Tensor], features: TensorDict, suffix: str
) -> tuple[Tensor, Tensor, None, Tensor | None]:
    """(predictions, labels, weights, groups) of a metric, as its ``update`` takes them."""
    kind = config.WhichOneof("metric")
    if kind in ("mean_absolute_error", "mean_squared_error", "xauc", "grouped_xauc"):
        name = "y" if f"y{suffix}" in predicted else "probs"
    else:
        name = "probs1" if kind in ("auc", "grouped_auc") and f"probs1{suffix}" in predicted else "probs"
    if name + suffix not in predicted:
        fail(ConfigError, f"metric {kind}: prediction {name + suffix!r}", got=f"only {sorted(predicted)}")
    key = getattr(getattr(config, kind), "grouping_key", "")
    groups = cast(Tensor, features["grouping"][key]) if key else None
    return predicted[name + suffix], features["label"], None, groups
