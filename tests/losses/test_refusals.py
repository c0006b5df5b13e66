"""What a loss refuses instead of computing something else."""

from __future__ import annotations

import pytest
import torch

from funcrec import losses
from funcrec.core.errors import ConfigError, DataError, ShapeError

z, pair = torch.zeros(3), torch.zeros(3, 2)
labels = torch.tensor([0, 1, 1])
sessions = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.bce(z, labels[:, None]),  # would broadcast to [3, 3]
        lambda: losses.bce(pair, labels),
        lambda: losses.bce(z[:0], labels[:0]),
        lambda: losses.bce(z.long(), labels),
        lambda: losses.l2(z, labels[:2]),
        lambda: losses.focal(z, labels, torch.ones(3, 1)),
        lambda: losses.bce(z, labels, torch.ones(1)),
        lambda: losses.softmax_cross_entropy(pair, labels.float()),
        lambda: losses.softmax_cross_entropy(z[:, None], labels),
        lambda: losses.softmax_cross_entropy(z, labels),
        lambda: losses.jrc(torch.zeros(3, 3), labels, sessions=sessions),
        lambda: losses.jrc(pair, labels, sessions=sessions[:2]),
        lambda: losses.jrc(pair, labels, sessions=sessions.float()),
        lambda: losses.check_labels(labels[:, None], "binary"),
    ],
)
def test_shapes(call) -> None:
    with pytest.raises(ShapeError, match=r"got .*expected"):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.bce(z, labels, label_smoothing=1.0),
        lambda: losses.softmax_cross_entropy(pair, labels, label_smoothing=-0.1),
        lambda: losses.focal(z, labels, gamma=-1.0),
        lambda: losses.focal(z, labels, alpha=1.0),
        lambda: losses.jrc(pair, labels, sessions=sessions, alpha=1.5),
        lambda: losses.check_labels(labels, "classes"),
        lambda: losses.check_labels(labels, "binary", classes=2),
        lambda: losses.check_labels(labels, "clicks"),  # type: ignore[arg-type]
    ],
)
def test_options(call) -> None:
    with pytest.raises(ConfigError, match=r"got .*expected"):
        call()


@pytest.mark.parametrize("label", [-100, -1, 2])
def test_a_class_out_of_range_is_never_ignored(label: int) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        losses.softmax_cross_entropy(pair, torch.tensor([0, label, 1]))


@pytest.mark.parametrize(
    ("kind", "classes", "values", "message"),
    [
        ("binary", None, [0.0, 0.5, 1.0, 2.0], r"2 of 4 rows outside, the first in row 1: 0.5"),
        ("binary", None, [1.0, 0.0, float("nan")], r"1 of 3 rows outside, the first in row 2: nan"),
        ("classes", 3, [0, 2, 3, -1], r"2 of 4 rows outside, the first in row 2: 3"),
        ("classes", 3, [0.0, 1.5], r"1 of 2 rows outside, the first in row 1: 1.5"),
        ("classes", 3, [float("nan"), 1.0], r"1 of 2 rows outside, the first in row 0: nan"),
        ("real", None, [1.0, float("inf")], r"1 of 2 rows outside, the first in row 1: inf"),
    ],
)
def test_bad_labels_are_named(kind, classes, values, message) -> None:
    with pytest.raises(DataError, match=message):
        losses.check_labels(torch.tensor(values), kind, classes=classes)


def test_good_labels_pass_in_the_dtype_of_their_loss() -> None:
    y = torch.tensor([0.0, 1.0, 1.0])
    assert losses.check_labels(y, "binary") is y
    assert losses.check_labels(y.bool(), "binary").dtype == torch.bool
    assert losses.check_labels(y, "classes", classes=2).dtype == torch.int64
    losses.softmax_cross_entropy(pair, losses.check_labels(y, "classes", classes=2))


def test_the_registry_holds_the_public_losses() -> None:
    assert all(getattr(losses, name) is loss for name, loss in losses.LOSSES.items())
    assert set(losses.LOSSES) < set(losses.__all__)
