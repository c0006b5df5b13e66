"""The value of each loss: golden numbers, torch's own losses, and slow loops over the definition."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from funcrec import losses
from tests.losses.strategies import make_case

quick = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 10**6)


def close(got: Tensor, expected: float, digits: float = 5e-5) -> None:
    assert abs(float(got) - expected) < digits


def test_golden_bce() -> None:
    logits, labels = torch.tensor([0.2, 0.3]), torch.tensor([0, 1])
    close(losses.bce(logits, labels), 0.6762)
    close(losses.bce(logits, labels, torch.tensor([1.0, 2.0])), 0.6356)
    close(losses.bce(logits, labels, label_smoothing=0.1), 0.6787)


def test_golden_l2() -> None:
    close(losses.l2(torch.tensor([0.2, 0.3]), torch.tensor([0, 1])), 0.2650)


def test_golden_focal() -> None:
    logits = torch.tensor([0.9, 0.5, 0.3, 0.2, 0.8, 0.5, 0.3, 0.5])
    close(losses.focal(logits, torch.tensor([1, 1, 1, 0, 1, 0, 1, 0]), gamma=2.0, alpha=0.5), 0.0830)


def test_golden_jrc() -> None:
    first = torch.tensor([0.9, 0.5, 0.3, 0.2, 0.8, 0.55, 0.33, 0.55])
    labels, sessions = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1]), torch.tensor([1, 1, 1, 1, 2, 2, 2, 2])
    close(losses.jrc(torch.stack([first, 1 - first], 1), labels, sessions=sessions, alpha=0.5), 0.7199)


@quick
@given(seeds, st.sampled_from([0.0, 0.3]))
def test_agrees_with_torch(seed: int, smoothing: float) -> None:
    _, _, z, y, w = make_case("bce", seed)
    w = w / w.mean()
    torch.testing.assert_close(
        losses.bce(z, y, w, label_smoothing=smoothing),
        F.binary_cross_entropy_with_logits(z, y * (1 - smoothing) + smoothing / 2, weight=w),
    )
    _, _, z, c, w = make_case("softmax", seed)
    per_row = F.cross_entropy(z, c, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(
        losses.softmax_cross_entropy(z, c, w, label_smoothing=smoothing), (per_row * w / w.mean()).mean()
    )


@quick
@given(seeds, st.sampled_from([0.0, 0.5, 2.0]), st.sampled_from([0.25, 0.5]))
def test_focal_is_its_definition(seed: int, gamma: float, alpha: float) -> None:
    case = make_case("focal", seed)
    total = 0.0
    for z, y in zip(case.logits.tolist(), case.labels.tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        total += -alpha * (1 - p) ** gamma * math.log(p) if y else -(1 - alpha) * p**gamma * math.log(1 - p)
    close(losses.focal(case.logits, case.labels, gamma=gamma, alpha=alpha), total / len(case.labels), 1e-12)


@quick
@given(seeds, st.integers(1, 9), st.sampled_from([0.0, 0.5]), st.sampled_from([1.0, 300.0]))
def test_jrc_is_its_definition(seed: int, rows: int, alpha: float, scale: float) -> None:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, 2, generator=g, dtype=torch.float64) * scale
    y, s = torch.randint(0, 2, (rows,), generator=g), torch.randint(-5, -3, (rows,), generator=g)
    total = 0.0
    for i in range(rows):
        c = int(y[i])
        rivals = [j for j in range(rows) if s[j] == s[i] and y[j] != c]
        ge = torch.logsumexp(z[[i, *rivals], c], 0) - z[i, c]
        total += alpha * float(torch.logsumexp(z[i], 0) - z[i, c]) + (1 - alpha) * float(ge)
    assert float(losses.jrc(z, y, sessions=s, alpha=alpha)) == pytest.approx(total / rows, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_jrc_of_one_class_is_its_cross_entropy(label: int) -> None:
    z, y = torch.randn(5, 2, dtype=torch.float64), torch.full((5,), label)
    got = losses.jrc(z, y, sessions=torch.zeros(5, dtype=torch.int64), alpha=0.4)
    torch.testing.assert_close(got, 0.4 * losses.softmax_cross_entropy(z, y))


def test_two_classes_are_the_binary_case() -> None:
    _, _, z, y, w = make_case("bce", 3)
    pair = torch.stack([torch.zeros_like(z), z], 1)
    torch.testing.assert_close(losses.softmax_cross_entropy(pair, y.long(), w), losses.bce(z, y, w))


def test_extreme_logits_lose_no_digits() -> None:
    z = torch.tensor([40.0, -40.0], dtype=torch.float64)
    assert float(losses.bce(z, torch.tensor([1, 0]))) == pytest.approx(math.log1p(math.exp(-40.0)), rel=1e-12)
    assert float(losses.bce(z * 100, torch.tensor([0, 1]))) == 4000.0
