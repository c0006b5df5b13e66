"""What a metric refuses instead of returning a number, and how it says so."""

from __future__ import annotations

import pytest
import torch

from funcrec import metrics
from funcrec.core.errors import ConfigError, DataError, NonFiniteError, ShapeError
from tests.metrics.drawn import METRICS, evaluate, make_rows, take

every_metric = pytest.mark.parametrize("name", METRICS)
PROBABILITIES = ["binned_auc", "log_loss", "normalized_entropy", "calibration", "expected_calibration_error"]
CLASSIFIERS = [*PROBABILITIES, "auc", "gauc", "accuracy", "log_loss_from_logits"]
FINITE = ["log_loss_from_logits", "mean_absolute_error", "mean_squared_error"]
nan, inf = float("nan"), float("inf")


def broken(column: str, row: int, value: float, name: str) -> None:
    r = make_rows(0, 6)
    columns = {"predictions": r.predictions, "labels": r.labels.double(), "weights": r.weights}
    columns[column][row] = value
    evaluate(METRICS[name][0](), r._replace(**columns), weighted=column == "weights")


@every_metric
def test_nan_predictions(name: str) -> None:
    with pytest.raises(NonFiniteError, match=rf"{name.split('_')[0]}.*1 of 6 .*row 4: nan"):
        broken("predictions", 4, nan, name)


@pytest.mark.parametrize("name", FINITE)
def test_infinite_predictions(name: str) -> None:
    with pytest.raises(NonFiniteError, match="row 2: -inf"):
        broken("predictions", 2, -inf, name)


@pytest.mark.parametrize("name", PROBABILITIES)
@pytest.mark.parametrize("value", [-0.01, 1.01, inf])
def test_logits_for_probabilities(name: str, value: float) -> None:
    with pytest.raises(DataError, match=r"row 3: .*pass probabilities, not logits"):
        broken("predictions", 3, value, name)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("value", [0.5, -1.0, 2.0, nan])
def test_labels(name: str, value: float) -> None:
    with pytest.raises(DataError, match=rf"{name}: labels: got 1 of 6 values outside, the first in row 5: {value}"):
        broken("labels", 5, value, name)


@pytest.mark.parametrize("name", ["xauc", "grouped_xauc", "mean_absolute_error"])
def test_real_labels(name: str) -> None:
    with pytest.raises(DataError, match=f"{name}: labels.*row 5: nan"):
        broken("labels", 5, nan, name)


@pytest.mark.parametrize("name", [n for n, (_, weighted) in METRICS.items() if weighted])
@pytest.mark.parametrize("value", [-1.0, inf, nan])
def test_weights(name: str, value: float) -> None:
    with pytest.raises(DataError, match=r"weights: got 1 of 6 values outside, the first in row 1"):
        broken("weights", 1, value, name)


@every_metric
def test_shapes(name: str) -> None:
    metric, r = METRICS[name][0](), make_rows(0, 6)
    for p, y in [
        (r.predictions, r.labels[:, None]),
        (r.predictions[:5], r.labels),
        (r.predictions[:, None, None], r.labels),
        (r.predictions.long(), r.labels),
        (r.predictions[0], r.labels[0]),
    ]:
        with pytest.raises(ShapeError, match=r"predictions|labels"):
            metric.update(metric.init(), p, y, groups=r.groups)
    if METRICS[name][1]:
        with pytest.raises(ShapeError, match="one weight a row"):
            metric.update(metric.init(), r.predictions, r.labels, r.weights[:1], r.groups)


@pytest.mark.parametrize("name", ["gauc", "grouped_xauc"])
def test_groups(name: str) -> None:
    metric, r = METRICS[name][0](), make_rows(0, 6)
    for groups in (None, r.groups[:5], r.groups.float()):
        with pytest.raises(ShapeError, match="pass groups="):
            metric.update(metric.init(), r.predictions, r.labels, groups=groups)


def test_wide_predictions() -> None:
    y = torch.tensor([0, 1, 2])
    wide = metrics.multiclass_auc(3)
    with pytest.raises(ShapeError, match=r"\[B, 3\]"):
        wide.update(wide.init(), torch.zeros(3, 2), y)
    with pytest.raises(DataError, match=r"row 2, column 1: 1.5"):
        wide.update(wide.init(), torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 1.5, 0]]), y)
    with pytest.raises(DataError, match=r"row 1: 3"):
        wide.update(wide.init(), torch.zeros(3, 3), torch.tensor([0, 3, 1]))
    top = metrics.accuracy(top_k=2)
    with pytest.raises(ShapeError, match="more than 2 classes"):
        top.update(top.init(), torch.zeros(3, 2), y.clamp(max=1))
    recall = metrics.recall_at_k(5)
    with pytest.raises(ShapeError, match="candidates"):
        recall.update(recall.init(), torch.zeros(3, 4), torch.zeros(3, 4))


@every_metric
def test_no_rows_are_undefined(name: str) -> None:
    metric, r = METRICS[name][0](), take(make_rows(0, 6), slice(0))
    if name in ("gauc", "gauc_weighted", "grouped_xauc"):
        metric = getattr(metrics, name.removesuffix("_weighted"))()
    empty = metric.update(metric.init(), r.predictions, r.labels, groups=r.groups)
    for state in (metric.init(), empty):
        with pytest.raises(DataError, match=r"undefined: got 0 rows.*undefined='nan'"):
            metric.compute(state)


@pytest.mark.parametrize("make", [metrics.auc, metrics.binned_auc, metrics.normalized_entropy, metrics.gauc])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_undefined(make, label: int) -> None:
    r = make_rows(0, 6)
    r = r._replace(labels=torch.full_like(r.labels, label))
    with pytest.raises(DataError, match=rf"6 rows .*( 6 in class {label}|one class)"):
        evaluate(make(), r)
    assert evaluate(make(undefined="nan"), r).isnan()


def test_other_undefined_values() -> None:
    r = make_rows(0, 6)
    none = r._replace(labels=torch.zeros_like(r.labels), weights=torch.zeros_like(r.weights))
    with pytest.raises(DataError, match="6 rows without a positive"):
        evaluate(metrics.calibration(), none)
    with pytest.raises(DataError, match="6 rows of total weight 0"):
        evaluate(metrics.log_loss(), none, weighted=True)
    recall = metrics.recall_at_k(1)
    with pytest.raises(DataError, match="2 rows without a relevant"):
        recall.compute(recall.update(recall.init(), torch.rand(2, 3), torch.zeros(2, 3)))
    p, y = torch.softmax(torch.rand(4, 3), 1), torch.tensor([0, 0, 1, 1])
    macro, weighted = metrics.multiclass_auc(3), metrics.multiclass_auc(3, average="weighted")
    with pytest.raises(DataError, match=r"4 rows, and for classes \[2\]"):
        macro.compute(macro.update(macro.init(), p, y))
    assert weighted.compute(weighted.update(weighted.init(), p, y)).isfinite()


@pytest.mark.parametrize(
    "make",
    [
        lambda: metrics.auc(undefined="zero"),  # type: ignore[arg-type]
        lambda: metrics.gauc(average="micro"),  # type: ignore[arg-type]
        lambda: metrics.binned_auc(thresholds=1),
        lambda: metrics.multiclass_auc(1),
        lambda: metrics.multiclass_auc(3, average="micro"),  # type: ignore[arg-type]
        lambda: metrics.log_loss(eps=0.0),
        lambda: metrics.normalized_entropy(eta=0.5),
        lambda: metrics.expected_calibration_error(n_bins=0),
        lambda: metrics.accuracy(top_k=0),
        lambda: metrics.recall_at_k(0),
        lambda: metrics.decayed_auc(decay_rate=1.0),
        lambda: metrics.decayed_auc(decay_step=0),
    ],
)
def test_options(make) -> None:
    with pytest.raises(ConfigError, match=r"got .*expected"):
        make()
