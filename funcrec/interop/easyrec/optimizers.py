"""From the ``train_config`` of a TorchEasyRec pipeline to a row rule, a dense optimizer and their schedules.

Numbers are read from the parsed message, so every default is that of its schema, in float32: a momentum of 0.9 arrives
as 0.8999999761581421, and SGD has it unless told otherwise.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

from funcrec.core.errors import ConfigError, fail
from funcrec.interop.easyrec.learning_rates import learning_rate
from funcrec.optim import (
    Optimizer,
    Schedule,
    adadelta,
    adagrad,
    adam,
    adamw,
    chain,
    clip_by_global_norm,
    clip_by_value,
    groups,
    rmsprop,
    rowwise,
    sgd,
)

Message = Any  # a protobuf message: WhichOneof, HasField, attributes


def micro_steps(train_config: Message) -> int:
    """``gradient_accumulation_steps``, at least 1: batches to a step of the dense optimizer."""
    return max(1, train_config.gradient_accumulation_steps)


def sparse_rule(train_config: Message, *, steps_per_epoch: int | None = None) -> rowwise.RowRule:
    """The row rule of ``sparse_optimizer``, with its learning rate as a function of the number of batches seen.

    The original's fused kernels read their learning rate once in ``gradient_accumulation_steps`` batches, at the first
    of them. A ``weight_decay`` of ``rowwise_adagrad_optimizer`` without a ``weight_decay_mode`` does nothing there, so
    here it is left out with a warning.

    Raises:
        ConfigError: no optimizer or learning rate, one of the two that only patched kernels run, or a number outside
            its range.
    """
    message, where = train_config.sparse_optimizer, "sparse_optimizer"
    kind = _which(message, where)
    o, every = getattr(message, kind), micro_steps(train_config)
    rates = learning_rate(message, o.lr, where, steps_per_epoch)
    lr: Schedule = rates if every == 1 else lambda k: rates(k - k % every)
    clip = o.max_gradient if o.gradient_clipping else None
    match kind:
        case "sgd_optimizer":
            return rowwise.sgd(lr, max_gradient=clip)
        case "adagrad_optimizer":
            return rowwise.adagrad(lr, initial_accumulator=o.initial_accumulator_value, max_gradient=clip)
        case "rowwise_adagrad_optimizer":
            modes: tuple[rowwise.WeightDecayMode, ...] = ("none", "l2", "decouple")
            mode, decay = modes[o.weight_decay_mode], o.weight_decay
            if decay and mode == "none":
                what = f"{where}.{kind}: weight_decay {decay:g} without a weight_decay_mode has no effect"
                warnings.warn(f"{what}, as in the original; set weight_decay_mode to L2 or DECOUPLE", stacklevel=2)
                decay = 0.0
            return rowwise.rowwise_adagrad(lr, weight_decay=decay, weight_decay_mode=mode, max_gradient=clip)
        case "lars_sgd_optimizer":
            return rowwise.lars_sgd(lr, momentum=o.momentum, weight_decay=o.weight_decay, max_gradient=clip)
        case "adam_optimizer" | "partial_rowwise_adam_optimizer" | "lamb_optimizer" | "partial_rowwise_lamb_optimizer":
            make = getattr(rowwise, kind.removesuffix("_optimizer"))
            return make(lr, betas=(o.beta1, o.beta2), weight_decay=o.weight_decay, max_gradient=clip)
    fail(
        ConfigError,
        where,
        got=kind,
        expected="an optimizer of FBGEMM",
        fix="adadelta and rmsprop of tables exist only in patched kernels: use adagrad_optimizer or adam_optimizer",
    )


def dense_optimizer(train_config: Message, names: Sequence[str], *, steps_per_epoch: int | None = None) -> Optimizer:
    """The optimizer of the dense weights.

    ``grad_clipping`` first, over all dense weights together; then each weight to the first of ``part_optimizers`` whose
    ``regex_pattern`` matches its whole name, the others to the main one. Names count with and without the ``model.``
    that the original's training wrapper puts in front. ``fused`` changes no numbers and is not read.

    Args:
        names: the original's names of the leaves, which are also the paths to give to ``init``.

    Raises:
        ConfigError: no optimizer or learning rate, a pattern that is no regular expression, an unknown
            ``clipping_type``, or a number outside its range.
    """
    message, every = train_config.dense_optimizer, micro_steps(train_config)
    main = _dense(message, message, "dense_optimizer", every, steps_per_epoch)
    parts, taken = [], set()
    for i, part in enumerate(message.part_optimizers):
        where = f"dense_optimizer.part_optimizers[{i}]"
        pattern = _compiled(part.regex_pattern, where)
        own = [n for n in names if n not in taken and (pattern.fullmatch(n) or pattern.fullmatch(f"model.{n}"))]
        if not own:
            warnings.warn(f"{where}: regex_pattern {part.regex_pattern!r} gets no parameter", stacklevel=2)
            continue
        taken.update(own)
        rates = message if part.WhichOneof("learning_rate") is None else part
        parts.append(("|".join(map(re.escape, own)), _dense(part, rates, where, every, steps_per_epoch)))
    optimizer = groups(parts, default=main) if parts else main
    return _clipped(optimizer, train_config)


def _dense(message: Message, rates: Message, where: str, every: int, steps_per_epoch: int | None) -> Optimizer:
    """One optimizer; ``rates`` is the message that holds its schedule, for parts sometimes the main one."""
    kind = _which(message, where)
    o = getattr(message, kind)
    by_batch = learning_rate(rates, o.lr, where, steps_per_epoch)
    # Step j is taken after batch (j + 1) · every - 1: schedules count batches.
    lr: Schedule = by_batch if every == 1 else lambda j: by_batch((j + 1) * every - 1)
    decay = o.weight_decay
    match kind:
        case "sgd_optimizer":
            return sgd(lr, o.momentum, dampening=o.dampening, nesterov=o.nesterov, weight_decay=decay)
        case "adagrad_optimizer":
            return adagrad(lr, initial_accumulator=o.initial_accumulator_value, eps=o.eps, weight_decay=decay)
        case "adam_optimizer":
            return adam(lr, (o.beta1, o.beta2), o.eps, weight_decay=decay, amsgrad=o.amsgrad)
        case "adamw_optimizer":
            return adamw(lr, (o.beta1, o.beta2), o.eps, weight_decay=decay, amsgrad=o.amsgrad)
        case "adadelta_optimizer":
            return adadelta(lr, o.rho, o.eps, weight_decay=decay)
        case "rmsprop_optimizer":
            return rmsprop(lr, o.alpha, o.eps, weight_decay=decay)
    fail(ConfigError, where, got=kind, expected="sgd, adagrad, adam, adamw, adadelta or rmsprop")


def _clipped(optimizer: Optimizer, train_config: Message) -> Optimizer:
    if not train_config.HasField("grad_clipping"):
        return optimizer
    c = train_config.grad_clipping
    match c.clipping_type.lower():
        case "none":
            return optimizer
        case "norm":
            return chain(clip_by_global_norm(c.max_gradient, c.norm_type), optimizer)
        case "value":
            return chain(clip_by_value(c.max_gradient), optimizer)
    fail(ConfigError, "grad_clipping: clipping_type", got=repr(c.clipping_type), expected="'none', 'norm' or 'value'")


def _which(message: Message, where: str) -> str:
    kind = message.WhichOneof("optimizer")
    if kind is None:
        fail(ConfigError, f"{where}: optimizer", got="none", expected="one, such as adam_optimizer { lr: 0.001 }")
    return kind


def _compiled(pattern: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as e:
        fail(ConfigError, f"{where}: regex_pattern {pattern!r}", got=str(e), expected="a regular expression")
