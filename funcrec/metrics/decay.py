"""Metrics of the recent past, for the log of a training run: windows of steps, the older ones fading."""

from __future__ import annotations

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, DataError, fail
from funcrec.metrics.binned import binned_auc
from funcrec.metrics.metric import Metric, State, UndefinedPolicy, add_states


def decayed(metric: Metric, *, decay_rate: float = 0.9, decay_step: int = 100) -> Metric:
    """A metric of sums, computed from sums that fade.

    Every ``decay_step`` updates the sums of the window since then enter: ``sums ← r sums + (1 - r) window``, the first
    window as it is. In between compute repeats its last value; before the first window is full there is none.
    TorchEasyRec fades the histogram of its AUC in this way, but of other metrics the value; the two agree where
    windows have equal total weight.

    Ranks that have made equally many updates can merge, before, between and after windows.

    Args:
        metric: one whose state is sums: not auc, gauc, grouped_xauc or xauc other than within batches.
        decay_rate: r in [0, 1), the share that the past keeps.
        decay_step: updates a window.

    Raises:
        ConfigError: for a rate or a step outside of its range, or a metric that keeps rows.
        DataError: in merge, for states of different numbers of updates; in compute as for the metric.
    """
    if not 0.0 <= decay_rate < 1.0 or decay_step < 1:
        got, expected = (decay_rate, decay_step), "0 ≤ decay_rate < 1 and decay_step ≥ 1"
        fail(ConfigError, "decayed: decay_rate and decay_step", got=got, expected=expected)
    if not all(isinstance(x, Tensor) for x in metric.init().values()):
        fail(ConfigError, "decayed: metric", got="one that keeps rows", expected="one of sums, as binned_auc")

    def init() -> State:
        return {"updates": torch.zeros((), dtype=torch.int64), "window": metric.init(), "faded": metric.init()}

    def update(
        state: State, predictions: Tensor, labels: Tensor, weights: Tensor | None = None, groups: Tensor | None = None
    ) -> State:
        # The count stays on the CPU, where branching on it waits for no device.
        updates, faded = state["updates"] + 1, state["faded"]
        window = metric.update(state["window"], predictions, labels, weights, groups)
        if updates % decay_step != 0:
            return {"updates": updates, "window": window, "faded": faded}
        share = 1.0 if updates == decay_step else 1.0 - decay_rate
        entering = {key: share * x for key, x in window.items()}
        kept = {key: decay_rate * x for key, x in faded.items()}
        return {"updates": updates, "window": metric.init(), "faded": add_states(kept, entering)}

    def merge(a: State, b: State) -> State:
        counts = int(a["updates"]), int(b["updates"])
        if 0 in counts:
            return a if counts[1] == 0 else b
        if counts[0] != counts[1]:
            fail(DataError, "decayed: updates of the states to merge", got=counts, expected="equal numbers")
        return {"updates": a["updates"], **{k: add_states(a[k], b[k]) for k in ("window", "faded")}}

    return Metric(init, update, merge, lambda state: metric.compute(state["faded"]))


def decayed_auc(
    *, thresholds: int = 200, decay_rate: float = 0.9, decay_step: int = 100, undefined: UndefinedPolicy = "raise"
) -> Metric:
    """The binned AUC of the recent past: :func:`decayed` of :func:`binned_auc`.

    Unlike TorchEasyRec's, which reports 0, it has no value before the first window is full: it raises, or is NaN
    under ``undefined="nan"``.
    """
    metric = binned_auc(thresholds=thresholds, undefined=undefined)
    return decayed(metric, decay_rate=decay_rate, decay_step=decay_step)
