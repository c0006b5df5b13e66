"""Rows that start afresh: weights as given, statistics as before the first step, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from funcrec import optim
from funcrec.core.ragged import Ids
from funcrec.core.random import key
from funcrec.embedding import dense_store, rowwise_store
from funcrec.optim import rowwise
from tests.embedding.managed import READS, ROWS, SPEC, copied, gradient_of, mapped, raw_ids, same, values_of

OPTIMIZERS = {
    "sgd": optim.sgd(0.1, momentum=0.9),
    "adagrad": optim.adagrad(0.1, initial_accumulator=0.3),
    "adam": optim.adam(0.1),
    "amsgrad": optim.adam(0.1, amsgrad=True),
    "adadelta": optim.adadelta(0.1),
    "rmsprop": optim.rmsprop(0.1),
    "lamb": optim.lamb(0.1),
    "chain": optim.chain(optim.clip_by_global_norm(1.0), optim.adam(0.1)),
    "decoupled": optim.decoupled_decay(optim.adagrad(0.1, initial_accumulator=0.3), 0.1, learning_rate=0.1),
    "groups": optim.groups([("dim3", optim.adagrad(0.1, initial_accumulator=0.3))], optim.adam(0.1)),
}


def tensors(x: Any) -> list[torch.Tensor]:
    if isinstance(x, torch.Tensor):
        return [x]
    return [t for y in (x if isinstance(x, (list, tuple)) else x.values()) for t in tensors(y)]


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("n", [0, 1, 7])
def test_reset_rows_of_a_dense_store_are_those_before_the_first_step(name, n):
    """And no others change: not those of a table in the same stack, nor counts and rates."""
    store = dense_store(SPEC, OPTIMIZERS[name])
    tables = store.init(key(0))
    beginning = copied(tables)
    for x in tensors(tables["optimizer"]):
        x += x.dtype != torch.bool
    trained, rows, values = copied(tables), torch.arange(7).flip(0)[:n], torch.full((n, 3), 5.0)
    tables = store.reset(tables, "item", rows, values)
    stack = SPEC.stack_of["item"]
    assert torch.equal(tables["weights"][stack.name], trained["weights"][stack.name].index_copy(0, rows, values))
    changed = torch.zeros(stack.rows, dtype=torch.bool).index_fill(0, rows + stack.offsets["item"], True)
    found = zip(*(tensors(t["optimizer"]) for t in (tables, trained, beginning)), strict=True)
    by_row = 0
    for now, before, first in found:
        if now.shape == (stack.rows, 3):
            by_row += 1
            assert torch.equal(now[changed], first[changed])
            assert torch.equal(now[~changed], before[~changed])
        else:
            assert torch.equal(now, before)
    assert by_row >= 1


def small_ids(seed: int) -> Ids:
    """Ids that are rows of their tables."""
    ids = raw_ids(seed, 9)
    return {f: mapped(x, {v: v % (ROWS[READS[f]]) for v in values_of(x)}, 0) for f, x in ids.items()}


@pytest.mark.parametrize("rule", [rowwise.adam(0.1), rowwise.rowwise_adagrad(0.1, initial_accumulator=0.3)])
def test_reset_rows_of_a_rowwise_store_too(rule):
    store = rowwise_store(SPEC, rule)
    tables = store.init(key(0))
    beginning = copied(tables)
    emb, touched = store.lookup(tables, small_ids(1))
    trained = copied(tables := store.update(tables, touched, gradient_of(emb, 0)))
    rows, values = torch.tensor([2, 0]), torch.full((2, 3), 5.0)
    tables = store.reset(tables, "user", rows, values)
    stack = SPEC.stack_of["user"]
    at = rows + stack.offsets["user"]
    trained["weights"][stack.name][at] = values
    for name, slot in trained["slots"][stack.name].items():
        slot[at] = beginning["slots"][stack.name][name][at]
    assert same(tables, trained)
