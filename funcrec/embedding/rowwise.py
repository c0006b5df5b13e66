"""The row-wise store: only the rows that a batch touched are read, aged and written.

Duplicate ids of a batch are summed first, then each touched row gets one step of a row rule: the semantics of FBGEMM's
*exact* optimizers. The step count is one for all tables, as there.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.embedding.lookup import Touched, gather, scatter
from funcrec.embedding.rows import Gradient, sum_duplicates
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.embedding.store import Store, Tables, init_weights
from funcrec.optim import as_schedule
from funcrec.optim.rowwise import RowRule


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


def rowwise_tables(spec: EmbeddingSpec, rule: RowRule, weights: TensorDict) -> Tables:
    """The tables of :func:`rowwise_store` from given weights, before their first step: those trained elsewhere, say."""
    slots = {}
    for stack in spec.stacks:
        like = weights[stack.name]
        precision = torch.promote_types(like.dtype, torch.float32)
        slots[stack.name] = {
            name: torch.full((stack.rows, *slot.shape), slot.fill, dtype=precision, device=like.device)
            for name, slot in sorted(rule.slots(stack.dim).items())
        }
    return {
        "weights": weights,
        "slots": slots,
        "step": torch.zeros((), dtype=torch.int64),
        "scale": torch.ones((), dtype=torch.float64),
    }


def rowwise_store(spec: EmbeddingSpec, rule: RowRule, *, compile: bool = False) -> Store:
    """A store with a row rule of ``funcrec.optim.rowwise``: sgd, adagrad, rowwise_adagrad, adam, ….

    Tables in half precision are updated in float32 and rounded once.

    Args:
        compile: ``torch.compile`` the update of the gathered rows, once per stack of tables.
    """
    schedule = as_schedule(rule.learning_rate)
    compiled = torch.compile(_write_rows) if compile else _write_rows

    def init(key: Tensor) -> Tables:
        return rowwise_tables(spec, rule, init_weights(spec, key))

    def lookup(tables: Tables, ids) -> tuple[TensorDict, Touched]:
        return gather(spec, tables["weights"], ids)

    def gradient(tables: Tables, touched: Touched, d_emb: TensorDict) -> Gradient:
        del tables
        grads = scatter(spec, touched, d_emb, rule.max_gradient)
        return {name: sum_duplicates(g) for name, g in grads.items()}

    def regularize(tables: Tables, g: Gradient) -> Gradient:
        del tables  # a row rule's weight decay touches only the batch's rows, and belongs to the rule
        return g

    def apply(tables: Tables, g: Gradient) -> Tables:
        taken = int(tables["step"])
        # As tensors: a changing Python number would be compiled anew.
        lr = torch.tensor(schedule(taken) * float(tables["scale"]), dtype=torch.float64)
        step = tables["step"] + 1
        count = step.double()  # β ** an integer tensor would be float32: bias corrections wrong in the fifth digit
        for name, (rows, values) in g.items():
            weight, slots = tables["weights"][name], tables["slots"][name]
            rows = torch.arange(weight.shape[0], device=weight.device) if rows is None else rows.long()
            write = compiled if rows.numel() > 1 else _write_rows  # torch.compile would specialize on 0 and 1 rows
            if compile:
                torch._dynamo.maybe_mark_dynamic(rows, 0)
                torch._dynamo.maybe_mark_dynamic(values, 0)
            write(rule, weight, slots, rows, values, count, lr)
        return {**tables, "step": step}

    return Store(init, lookup, gradient, regularize, apply, spec)
