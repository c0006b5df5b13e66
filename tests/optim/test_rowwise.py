"""Row rules against slow float64 loops over rows and entries, written from the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcrec.core.errors import ConfigError
from funcrec.optim import adam as dense_adam
from funcrec.optim import adamw as dense_adamw
from funcrec.optim import lamb as dense_lamb
from funcrec.optim import rowwise

EPS, B1, B2, DECAY = 1e-4, 0.8, 0.9, 0.3
Row = list[float]
Memory = dict[str, list[float]]  # per-row state of the slow loop; missing entries are zeros


def slow_sgd(w: Row, g: Row, s: Memory, t: int, lr: float) -> Row:
    return [wi - lr * gi for wi, gi in zip(w, g, strict=True)]


def slow_adagrad(initial: float) -> Callable:
    def row(w: Row, g: Row, s: Memory, t: int, lr: float) -> Row:
        s["sum"] = [h + gi * gi for h, gi in zip(s.get("sum", [initial] * len(w)), g, strict=True)]
        return [wi - lr * gi / (math.sqrt(h) + EPS) for wi, gi, h in zip(w, g, s["sum"], strict=True)]

    return row


def slow_rowwise_adagrad(mode: str, initial: float = 0.0) -> Callable:
    def row(w: Row, g: Row, s: Memory, t: int, lr: float) -> Row:
        seen = [gi + DECAY * wi if mode == "l2" else gi for wi, gi in zip(w, g, strict=True)]
        s["sum"] = [s.get("sum", [initial])[0] + sum(x * x for x in seen) / len(seen)]
        m = lr / (math.sqrt(s["sum"][0]) + EPS)
        c = {"none": 1.0, "l2": 1.0 - m * DECAY, "decouple": 1.0 - lr * DECAY}[mode]
        return [c * wi - m * gi for wi, gi in zip(w, g, strict=True)]

    return row


def slow_adam(partial: bool, trust: bool, zero_norm_ratio: float = 0.0) -> Callable:
    def row(w: Row, g: Row, s: Memory, t: int, lr: float) -> Row:
        n = len(w)
        squares = [sum(x * x for x in g) / n] * n if partial else [x * x for x in g]
        s["mu"] = [B1 * m + (1 - B1) * x for m, x in zip(s.get("mu", [0.0] * n), g, strict=True)]
        s["nu"] = [B2 * v + (1 - B2) * x for v, x in zip(s.get("nu", [0.0] * n), squares, strict=True)]
        r = [
            (m / (1 - B1**t)) / (math.sqrt(v / (1 - B2**t)) + EPS) + DECAY * wi
            for m, v, wi in zip(s["mu"], s["nu"], w, strict=True)
        ]
        norm_w, norm_r = math.hypot(*w), math.hypot(*r)
        ratio = 1.0
        if trust:
            ratio = norm_w / norm_r if norm_w > 0 and norm_r > 0 else zero_norm_ratio
        return [wi - lr * ratio * ri for wi, ri in zip(w, r, strict=True)]

    return row


def slow_lars(w: Row, g: Row, s: Memory, t: int, lr: float) -> Row:
    norm_w = math.hypot(*w)
    whole = math.hypot(*g) + DECAY * norm_w
    rate = lr * 0.5 * norm_w / whole if whole > 0 else 0.0
    old = s.get("mu", [0.0] * len(w))
    s["mu"] = [B1 * m + rate * (gi + DECAY * wi) for m, gi, wi in zip(old, g, w, strict=True)]
    return [wi - m for wi, m in zip(w, s["mu"], strict=True)]


ADAM: Any = {"betas": (B1, B2), "eps": EPS, "weight_decay": DECAY}
CASES: dict[str, tuple[rowwise.RowRule, Callable]] = {
    "sgd": (rowwise.sgd(0.1), slow_sgd),
    "adagrad": (rowwise.adagrad(0.1, initial_accumulator=0.2, eps=EPS), slow_adagrad(0.2)),
    "rowwise_adagrad": (
        rowwise.rowwise_adagrad(0.1, initial_accumulator=0.2, eps=EPS),
        slow_rowwise_adagrad("none", 0.2),
    ),
    "rowwise_adagrad_l2": (
        rowwise.rowwise_adagrad(0.1, eps=EPS, weight_decay=DECAY, weight_decay_mode="l2"),
        slow_rowwise_adagrad("l2"),
    ),
    "rowwise_adagrad_decouple": (
        rowwise.rowwise_adagrad(0.1, eps=EPS, weight_decay=DECAY, weight_decay_mode="decouple"),
        slow_rowwise_adagrad("decouple"),
    ),
    "adam": (rowwise.adam(0.1, **ADAM), slow_adam(False, False)),
    "partial_rowwise_adam": (rowwise.partial_rowwise_adam(0.1, **ADAM), slow_adam(True, False)),
    "lamb": (rowwise.lamb(0.1, **ADAM), slow_adam(False, True)),
    "lamb_guarded": (rowwise.lamb(0.1, **ADAM, zero_norm_ratio=1.0), slow_adam(False, True, 1.0)),
    "lars_sgd": (rowwise.lars_sgd(0.1, momentum=B1, weight_decay=DECAY, eta=0.5), slow_lars),
    "partial_rowwise_lamb": (rowwise.partial_rowwise_lamb(0.1, **ADAM), slow_adam(True, True)),
}


def fresh_slots(rule: rowwise.RowRule, rows: int, dim: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {n: torch.full((rows, *s.shape), s.fill, dtype=dtype) for n, s in rule.slots(dim).items()}


def step_rows(
    rule: rowwise.RowRule, table: Tensor, slots: dict[str, Tensor], rows: Sequence[int], g: Tensor, t: int, lr: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a store does with a rule: gather distinct rows, update, scatter."""
    w, new = rule.update(table[rows], g, {n: s[rows] for n, s in slots.items()}, t, lr)
    assert {n: s.shape for n, s in new.items()} == {n: s[rows].shape for n, s in slots.items()}
    index = torch.tensor(rows, dtype=torch.int64)
    return table.index_copy(0, index, w), {n: s.index_copy(0, index, new[n]) for n, s in slots.items()}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(1, 4), st.lists(st.sets(st.integers(0, 4)).map(sorted), min_size=1, max_size=5))
def test_steps_are_the_slow_loop(name: str, seed: int, dim: int, batches: list[list[int]]) -> None:
    """Rows touched now and then, of which row 4 starts at zero; the step counts the table's updates."""
    rule, slow = CASES[name]
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(5, dim, generator=generator, dtype=torch.float64)
    table[4] = 0.0
    slots, expected = fresh_slots(rule, 5, dim), table.tolist()
    memory: list[Memory] = [{} for _ in range(5)]
    for t, rows in enumerate(batches, start=1):
        g = torch.randn(len(rows), dim, generator=generator, dtype=torch.float64)
        lr = 0.1 / t
        table, slots = step_rows(rule, table, slots, rows, g, t, lr)
        for r, row in enumerate(rows):
            expected[row] = slow(expected[row], g[r].tolist(), memory[row], t, lr)
    torch.testing.assert_close(table, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_rules_are_pure_and_indifferent_to_row_order(name: str) -> None:
    rule, _ = CASES[name]
    w, g = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slots = fresh_slots(rule, 6, 3)
    w, slots = rule.update(w, g, slots, 1, 0.1)
    before = [t.clone() for t in (w, g, *slots.values())]
    new, new_slots = rule.update(w, g, slots, 2, 0.1)
    for old, t in zip(before, (w, g, *slots.values()), strict=True):
        assert torch.equal(old, t)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    shuffled, shuffled_slots = rule.update(w[order], g[order], {n: s[order] for n, s in slots.items()}, 2, 0.1)
    torch.testing.assert_close(shuffled, new[order], rtol=0, atol=1e-14)
    for n, s in new_slots.items():
        torch.testing.assert_close(shuffled_slots[n], s[order], rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_zero_gradients_of_new_rows_stay_finite(name: str) -> None:
    rule, _ = CASES[name]
    w = torch.tensor([[0.0, 0.0], [1.0, -2.0]], dtype=torch.float64)
    new, slots = rule.update(w, torch.zeros_like(w), fresh_slots(rule, 2, 2), 1, 0.1)
    assert torch.isfinite(new).all()
    assert all(torch.isfinite(s).all() for s in slots.values())
    assert torch.equal(new[0], w[0])


def test_rows_that_are_all_touched_take_the_dense_steps() -> None:
    w = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for rule, dense in (
        (rowwise.adam(0.1), dense_adam(0.1)),
        (rowwise.adam(0.1, weight_decay=0.2), dense_adamw(0.1, weight_decay=0.2)),
        (rowwise.lamb(0.1, eps=1e-6, zero_norm_ratio=1.0), dense_lamb(0.1, batch_dims=1)),
    ):
        rows, slots = w, fresh_slots(rule, 4, 3)
        (leaf,), state = [w], dense.init([w], ["table"])
        for t in range(1, 5):
            g = torch.randn(4, 3, generator=torch.Generator().manual_seed(t), dtype=torch.float64)
            rows, slots = rule.update(rows, g, slots, t, 0.1)
            (leaf,), state = dense.step([g], state, [leaf])
        torch.testing.assert_close(rows, leaf, rtol=1e-12, atol=1e-12)


def test_a_zero_row_of_lamb_moves_only_if_asked_to() -> None:
    w, g = torch.zeros(1, 3), torch.ones(1, 3)
    for ratio in (0.0, 0.5, 1.0):
        rule = rowwise.lamb(0.1, zero_norm_ratio=ratio)
        new, _ = rule.update(w, g, fresh_slots(rule, 1, 3, torch.float32), 1, 0.1)
        torch.testing.assert_close(new, torch.full((1, 3), -0.1 * ratio))


def test_a_step_of_lars_has_a_length_relative_to_the_row_whatever_the_gradients_size() -> None:
    w, g = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rule = rowwise.lars_sgd(0.1)
    for size in (1e-3, 1.0, 1e3):
        new, _ = rule.update(w, size * g, fresh_slots(rule, 5, 3), 1, 0.1)
        torch.testing.assert_close((new - w).norm(dim=1), 0.1 * 0.001 * w.norm(dim=1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rowwise.sgd(-1.0), "rowwise.sgd: learning_rate"),
        (lambda: rowwise.sgd(0.1, max_gradient=0.0), "max_gradient: got 0.0"),
        (lambda: rowwise.adagrad(0.1, eps=0.0), "rowwise.adagrad: eps"),
        (lambda: rowwise.rowwise_adagrad(0.1, weight_decay=0.1), "weight_decay_mode"),
        (lambda: rowwise.rowwise_adagrad(0.1, weight_decay_mode="L2"), "'L2'"),  # type: ignore[arg-type]
        (lambda: rowwise.adam(0.1, betas=(0.9, 1.0)), "rowwise.adam: beta2"),
        (lambda: rowwise.lamb(0.1, zero_norm_ratio=-1.0), "zero_norm_ratio"),
        (lambda: rowwise.lars_sgd(0.1, momentum=1.0), "rowwise.lars_sgd: momentum: got 1.0"),
        (lambda: rowwise.lars_sgd(0.1, max_gradient=-1.0), "max_gradient: got -1.0"),
    ],
)
def test_bad_settings_raise_by_name(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
