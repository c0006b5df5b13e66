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


def rowwise_store(spec: EmbeddingSpec, rule: RowRule) -> Store:
    """A store with the row rule of ``funcrec.optim.rowwise``: sgd, adagrad, rowwise_adagrad, adam, ….

    Tables in half precision are updated in float32 and rounded once.
    """

    schedule = as_schedule(rule.learning_rate)

    def init(key: Tensor) -> Tables:
        weights = init_weights(spec, key)
        slots = {}
        for stack in spec.stacks:
            like = weights[stack.name]
            precision = torch.promote_types(stack.dtype, torch.float32)
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

    def lookup(tables: Tables, ids) -> tuple[TensorDict, Touched]:
        return gather(spec, tables["weights"], ids)

    def gradient(tables: Tables, touched: Touched, d_emb: TensorDict) -> Gradient:
        del tables
        grads = scatter(spec, touched, d_emb, rule.max_gradient)
        return {name: sum_duplicates(g) for name, g in grads.items()}

    def regularize(tables: Tables, g: Gradient) -> Gradient:
        del tables  # a row rule's weight decay touches only the batch's rows, and belongs to the rule
        return g

    @torch.no_grad()
    def apply(tables: Tables, g: Gradient) -> Tables:
        taken = int(tables["step"])
        lr = schedule(taken) * float(tables["scale"])
        for name, (rows, values) in g.items():
            weight, slots = tables["weights"][name], tables["slots"][name]
            if rows is None:
                rows = torch.arange(weight.shape[0], device=weight.device)
            precision = torch.promote_types(weight.dtype, torch.float32)
            w = weight.index_select(0, rows).to(precision)
            old = {k: v.index_select(0, rows) for k, v in slots.items()}
            w, new = rule.update(w, values.to(precision), old, taken + 1, lr)
            weight.index_copy_(0, rows, w.to(weight.dtype))
            for k, v in new.items():
                slots[k].index_copy_(0, rows, v)
        return {**tables, "step": tables["step"] + 1}

    return Store(init, lookup, gradient, regularize, apply, spec)
