"""The row-wise store: only the rows that a batch touched are read, aged and written.

Duplicate ids of a batch are summed first, then each touched row gets one step of a row rule: the semantics of FBGEMM's
*exact* optimizers. The step count is one for all tables, as there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.impl import Impl, check_impl
from funcrec.embedding.lookup import Touched, gather, scatter
from funcrec.embedding.rows import Gradient, RowGrad, sum_duplicates
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.embedding.store import Store, Tables, init_weights
from funcrec.kernels import registry
from funcrec.optim import as_schedule
from funcrec.optim.rowwise import RowRule
from funcrec.optim.schedules import Schedule


@torch.no_grad()
def _write_rows(
    rule: RowRule, weight: Tensor, slots: dict[str, Tensor], rows: Tensor, values: Tensor, step: Tensor, lr: Tensor
) -> None:
    """One step of these rows, written into ``weight`` and ``slots``."""
    precision = torch.promote_types(weight.dtype, torch.float32)
    w = weight.index_select(0, rows).to(precision)
    old = {name: slot.index_select(0, rows) for name, slot in slots.items()}
    w, new = rule.update(w, values.to(precision), old, step, lr)  # type: ignore[arg-type]  # numbers as scalar tensors
    weight.index_copy_(0, rows, w.to(weight.dtype))
    for name, slot in new.items():
        slots[name].index_copy_(0, rows, slot)


def _fused(rule: RowRule, weight: Tensor, g: RowGrad, impl: Impl) -> bool:
    """Whether one kernel sums duplicates and takes the step; on a CPU there is none, whatever ``impl`` says."""
    why_not = registry.rows.unsupported(rule.name, rule.constants, weight, g.values)
    return registry.use("rowwise_store", impl, weight, unsupported=why_not) and registry.rows.runs(weight)


class Progress(NamedTuple):
    """Of one step, as float64 scalars: its number from 1, and the learning rate."""

    number: Tensor
    lr: Tensor


def _next_step(schedule: Schedule, tables: Tables, on_device: bool) -> tuple[Tables, Progress]:
    """The tables with one more step, and its numbers; ``on_device``: without asking the host for any."""
    step, scale = tables["step"], tables["scale"]
    if on_device:
        lr = scale * schedule(0)  # a constant
        step = step.add_(1)  # in place: each replay of a captured graph counts on
    else:
        # As tensors: a changing Python number would be compiled anew.
        lr = torch.tensor(schedule(int(step)) * float(scale), dtype=torch.float64)
        step = step + 1
    # The count in double: β ** an integer tensor would be float32, bias corrections wrong in the fifth digit.
    return {**tables, "step": step}, Progress(step.double(), lr)


def rowwise_tables(spec: EmbeddingSpec, rule: RowRule, weights: TensorDict, *, capturable: bool = False) -> Tables:
    """The tables of :func:`rowwise_store` from given weights, before their first step: those trained elsewhere, say."""
    slots = {}
    for stack in spec.stacks:
        like = weights[stack.name]
        precision = torch.promote_types(like.dtype, torch.float32)
        slots[stack.name] = {
            name: torch.full((stack.rows, *slot.shape), slot.fill, dtype=precision, device=like.device)
            for name, slot in sorted(rule.slots(stack.dim).items())
        }
    device = weights[spec.stacks[0].name].device if capturable and spec.stacks else torch.device("cpu")
    return {
        "weights": weights,
        "slots": slots,
        "step": torch.zeros((), dtype=torch.int64, device=device),
        "scale": torch.ones((), dtype=torch.float64, device=device),
    }


def rowwise_store(
    spec: EmbeddingSpec,
    rule: RowRule,
    *,
    compile: bool = False,
    impl: Impl = "auto",
    check_ids: bool = True,
    capturable: bool = False,
) -> Store:
    """A store with a row rule of ``funcrec.optim.rowwise``: sgd, adagrad, rowwise_adagrad, adam, ….

    Tables in half precision are updated in float32 and rounded once.

    Args:
        compile: ``torch.compile`` the update of the gathered rows, once per stack of tables, where no kernel takes it.
        impl: which form runs; see :func:`funcrec.kernels.registry.use`. Kernels take the update by sgd, adagrad,
            rowwise_adagrad, adam and partial_rowwise_adam, and the pooling of ragged ids.
        check_ids: see :func:`funcrec.embedding.lookup.gather`.
        capturable: keep the step count and the scale of the learning rate on the device of the tables. Lookup and
            update by a kernel can then be part of a CUDA graph. The count is written in place.

    Raises:
        ConfigError: ``capturable`` with a schedule of learning rates, a function that only the host can call.
    """
    check_impl("rowwise_store", impl)
    if capturable and callable(rule.learning_rate):
        fix = "give the rule a number, and change it by writing into tables['scale']"
        fail(ConfigError, "capturable: learning rate", got="a schedule", expected="a number", fix=fix)
    schedule = as_schedule(rule.learning_rate)
    compiled = torch.compile(_write_rows) if compile else _write_rows

    def init(key: Tensor) -> Tables:
        return rowwise_tables(spec, rule, init_weights(spec, key), capturable=capturable)

    def lookup(tables: Tables, ids) -> tuple[TensorDict, Touched]:
        return gather(spec, tables["weights"], ids, impl=impl, check_ids=check_ids)

    def gradient(tables: Tables, touched: Touched, d_emb: TensorDict) -> Gradient:
        del tables
        return scatter(spec, touched, d_emb, rule.max_gradient)

    def regularize(tables: Tables, g: Gradient) -> Gradient:
        del tables  # a row rule's weight decay touches only the batch's rows, and belongs to the rule
        return g

    def write(weight: Tensor, slots: dict[str, Tensor], g: RowGrad, now: Progress) -> None:
        if g.rows is None:
            g = g._replace(rows=torch.arange(weight.shape[0], device=weight.device), unique=True)
        assert g.rows is not None
        if _fused(rule, weight, g, impl):
            known = rule.constants or {}
            registry.rows.update(rule.name, known, weight, slots, g.rows, *g[1:], *now)
            return
        rows, values = sum_duplicates(g)[:2]
        assert rows is not None
        rows = rows.long()
        if compile:
            torch._dynamo.maybe_mark_dynamic(rows, 0)
            torch._dynamo.maybe_mark_dynamic(values, 0)
        # torch.compile would specialize on 0 and 1 rows
        (compiled if rows.numel() > 1 else _write_rows)(rule, weight, slots, rows, values, *now)

    def apply(tables: Tables, g: Gradient) -> Tables:
        tables, now = _next_step(schedule, tables, capturable)
        for name, row_grad in g.items():
            write(tables["weights"][name], tables["slots"][name], row_grad, now)
        return tables

    @torch.no_grad()
    def reset(tables: Tables, table: str, rows: Tensor, values: Tensor) -> Tables:
        stack = spec.stack_of[table]
        at = rows + stack.offsets[table]
        weight = tables["weights"][stack.name]
        weight.index_copy_(0, at, values.to(weight.dtype))
        for name, slot in rule.slots(stack.dim).items():
            tables["slots"][stack.name][name].index_fill_(0, at, slot.fill)
        return tables

    return Store(init, lookup, gradient, regularize, apply, spec, reset=reset)
