"""Training and evaluation as plain generators: the caller's ``for`` loop owns bars, logs, checkpoints and the clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from funcrec.core.batch import Batch
from funcrec.core.errors import ConfigError, fail
from funcrec.core.random import fold_in
from funcrec.metrics import Metric
from funcrec.optim import set_scale
from funcrec.train.state import TrainState
from funcrec.train.step import Step


class Dataset(Protocol):
    """What ``fit`` reads: ``InMemory`` and ``Stream`` of ``funcrec.data``, or anything with this method.

    The batches of one key must always be the same; ``start`` skips that many. Resuming relies on both.
    """

    def batches(
        self, batch_size: int, *, key: Tensor | None = None, start: int = 0, drop_last: bool = False
    ) -> Iterator[Batch]: ...


class Run(NamedTuple):
    """A training run between two steps: all that a checkpoint needs to continue it bit for bit."""

    train: TrainState
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch already seen."""
    loss_sum: float | Tensor = 0.0
    """Sum of this epoch's losses, one a step; on the device where the step does not read them (``check_finite``)."""
    steps: int = 0
    """Steps of this epoch already taken."""
    best: dict[str, Any] | None = None
    """``metric``, ``epoch`` and copies of ``params``, ``state`` and table ``weights`` of the best epoch so far."""
    stale: int = 0
    """Epochs since the best."""
    scale: float = 1.0
    """What the plateau rule has made of the learning rate."""
    history: tuple[dict[str, float], ...] = ()


class Report(NamedTuple):
    """What ``fit`` yields: after every step, and once more with ``metrics`` at the end of an epoch."""

    run: Run
    loss: float | Tensor
    """A scalar tensor after a step that does not read it (``check_finite``): ``float`` of it waits for the device."""
    rows: int
    metrics: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """How long to train, and what to do when the validation metric stops improving.

    Attributes:
        monitor: name of the validation metric watched, ``maximize`` its direction.
        patience: stop after this many epochs without gain; None: never.
        reduce: factor on the learning rate after every epoch without gain (1: off).
        min_delta: smallest change that counts as a gain.
        accumulate: micro-batches of ``batch_size`` rows per step.
        regression: metrics see the model's outputs as they are, not as probabilities.
    """

    batch_size: int
    epochs: int
    monitor: str = "auc"
    maximize: bool = True
    patience: int | None = None
    reduce: float = 1.0
    min_delta: float = 0.0
    keep_best: bool = True
    accumulate: int = 1
    eval_batch_size: int = 16384
    regression: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "accumulate", "eval_batch_size"):
            if getattr(self, name) < 1:
                fail(ConfigError, f"fit: {name}", got=getattr(self, name), expected="at least 1")
        if not 0.0 < self.reduce <= 1.0:
            fail(ConfigError, "fit: reduce", got=self.reduce, expected="a factor in (0, 1]")


def predict(step: Step, ts: TrainState, data: Dataset, batch_size: int) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each batch with its logits ``[B, C]``, deterministic, in the order of the data."""
    for batch in data.batches(batch_size):
        yield batch, step.predict(ts, batch)


def probabilities(logits: Tensor) -> Tensor:
    """σ of one logit, ``[B]``; softmax of several, ``[B, C]``."""
    return torch.sigmoid(logits.float().squeeze(-1)) if logits.shape[-1] == 1 else torch.softmax(logits.float(), dim=-1)


def evaluate(
    step: Step,
    ts: TrainState,
    data: Dataset,
    metrics: Mapping[str, Metric],
    batch_size: int = 16384,
    *,
    regression: bool = False,
) -> dict[str, float]:
    """The metrics of a model on a data set; each sees probabilities, labels and sample weights.

    With ``regression`` they see the outputs themselves, ``[B]``, in place of probabilities.
    """
    states = {name: m.init() for name, m in metrics.items()}
    for batch, logits in predict(step, ts, data, batch_size):
        p, f = logits.float().squeeze(-1) if regression else probabilities(logits), batch.features.to(logits.device)
        for name, m in metrics.items():
            states[name] = m.update(states[name], p, f["label"], f.get("weight", None))
    return {name: float(m.compute(states[name])) for name, m in metrics.items()}


def with_scale(ts: TrainState, scale: float) -> TrainState:
    """The learning rates of dense weights and tables, all times ``scale``."""
    return ts._replace(optimizer=set_scale(ts.optimizer, scale), tables=set_scale(ts.tables, scale))


def best_of(run: Run) -> TrainState:
    """The train state with the weights of the best epoch (those of the last, where none was kept)."""
    if run.best is None:
        return run.train
    tables = {**run.train.tables, "weights": run.best["weights"]}
    return run.train._replace(params=run.best["params"], state=run.best["state"], tables=tables)


def _end_of_epoch(run: Run, config: FitConfig, metrics: dict[str, float] | None) -> Run:
    """Account for a finished epoch: history, best weights, learning rate, early stop."""
    row = {"epoch": float(run.epoch), "loss": float(run.loss_sum) / max(run.steps, 1), **(metrics or {})}
    run = run._replace(epoch=run.epoch + 1, batch=0, loss_sum=0.0, steps=0, history=(*run.history, row))
    if metrics is None:
        return run
    if config.monitor not in metrics:
        fail(ConfigError, "fit: monitor", got=repr(config.monitor), expected=f"one of {sorted(metrics)}")
    value = metrics[config.monitor] if config.maximize else -metrics[config.monitor]
    if run.best is None or value > run.best["metric"] + config.min_delta:
        ts, best = run.train, {"metric": value, "epoch": run.epoch - 1}
        if config.keep_best:
            best |= {"params": ts.params.clone(), "state": ts.state.clone(), "weights": ts.tables["weights"].clone()}
        return run._replace(best=best, stale=0)
    run = run._replace(stale=run.stale + 1, scale=run.scale * config.reduce)
    return run._replace(train=with_scale(run.train, run.scale))


def finished(run: Run, config: FitConfig) -> bool:
    """All epochs done, or no gain for ``patience`` epochs."""
    return run.epoch >= config.epochs or (config.patience is not None and run.stale >= config.patience)


def fit(
    run: Run,
    step: Step,
    data: Dataset,
    config: FitConfig,
    *,
    valid: Dataset | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Iterator[Report]:
    """Train from wherever ``run`` stands to its end, yielding a report after every step and every epoch.

    Epoch e is shuffled by the run's key folded with e, so a resumed run sees the very batches that were left. The last
    group of micro-batches of an epoch takes a step too, however few they are.

    Raises:
        ConfigError: tables of a sharded store, training data without rows, a monitored metric that is not measured.
    """
    if "weights" not in run.train.tables:
        fix = "write the loop, with together and shard.checkpoint: examples/train_sharded.py is one"
        fail(ConfigError, "fit: tables", got="those of a sharded store", expected="local ones", fix=fix)
    while not finished(run, config):
        shuffle = fold_in(fold_in(run.train.key, "shuffle"), run.epoch)
        pending: list[Batch] = []
        batches = data.batches(config.batch_size, key=shuffle, start=run.batch)
        for batch, more in _with_more(batches):
            pending.append(batch)
            if len(pending) < config.accumulate and more:
                continue
            train, info = step.train(run.train, pending)
            run = run._replace(
                train=train,
                batch=run.batch + len(pending),
                loss_sum=run.loss_sum + info["loss"],
                steps=run.steps + 1,
            )
            rows, pending = sum(map(len, pending)), []
            yield Report(run, info["loss"], rows)
        if run.steps == 0:
            fail(ConfigError, "fit: the training data has no rows", got=f"epoch {run.epoch} without a batch")
        measured = None
        if valid is not None:
            measured = evaluate(
                step, run.train, valid, metrics or {}, config.eval_batch_size, regression=config.regression
            )
        mean = float(run.loss_sum) / run.steps
        run = _end_of_epoch(run, config, measured)
        yield Report(run, mean, 0, run.history[-1])


def _with_more(batches: Iterator[Batch]) -> Iterator[tuple[Batch, bool]]:
    """Each batch with whether another follows."""
    previous = None
    for batch in batches:
        if previous is not None:
            yield previous, True
        previous = batch
    if previous is not None:
        yield previous, False
