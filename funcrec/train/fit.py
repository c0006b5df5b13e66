"""Training and evaluation as plain generators: the caller's ``for`` loop owns bars, logs, checkpoints and the clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.random import fold_in
from funcrec.core.replicas import Replicas
from funcrec.metrics import Metric
from funcrec.optim import set_scale
from funcrec.train.ahead import Ready, ahead
from funcrec.train.evaluation import Dataset, evaluate
from funcrec.train.state import TrainState
from funcrec.train.step import Step, Trained


class Run(NamedTuple):
    """A training run between two steps: all that a checkpoint needs to continue it bit for bit."""

    train: TrainState
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch already seen."""
    loss_sum: float | Tensor = 0.0
    """Sum of this epoch's losses, one a step; on the device where the step does not read them (``check_finite``): among
    several processes a tensor is the share of this one."""
    steps: int = 0
    """Steps of this epoch already taken."""
    best: dict[str, Any] | None = None
    """``metric``, ``epoch`` and copies of ``params``, ``state`` and table ``weights`` of the best epoch so far, and of
    what else a lookup reads (``zch``). Weights of tables that lie in many processes are a ``Kept``."""
    stale: int = 0
    """Epochs since the best."""
    scale: float = 1.0
    """What the plateau rule has made of the learning rate."""
    history: tuple[dict[str, float], ...] = ()


class Report(NamedTuple):
    """What ``fit`` yields: after every step, and once more with ``metrics`` at the end of an epoch."""

    run: Run
    loss: float | Tensor
    """A scalar tensor after a step that does not read it (``check_finite``): ``float`` of it waits for the device, and
    among several processes it is the share of this one."""
    rows: int
    """Of this process."""
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
        ahead: batches that are made ready while others are trained on, see :func:`~funcrec.train.ahead`; 0: none.
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
    ahead: int = 0
    eval_batch_size: int = 16384
    regression: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "accumulate", "eval_batch_size"):
            if getattr(self, name) < 1:
                fail(ConfigError, f"fit: {name}", got=getattr(self, name), expected="at least 1")
        if not 0.0 < self.reduce <= 1.0:
            fail(ConfigError, "fit: reduce", got=self.reduce, expected="a factor in (0, 1]")


def with_scale(ts: TrainState, scale: float) -> TrainState:
    """The learning rates of dense weights and tables, all times ``scale``."""
    return ts._replace(optimizer=set_scale(ts.optimizer, scale), tables=set_scale(ts.tables, scale))


def best_of(run: Run) -> TrainState:
    """The train state with the weights of the best epoch (those of the last, where none was kept).

    Tables that lie in many processes exist once: their best weights are written over the last ones, and ``run.train``
    is dead after the call. All processes make it.
    """
    if run.best is None or "weights" not in run.best:
        return run.train
    weights, tables = run.best["weights"], run.train.tables
    tables = {**tables, "weights": weights} if isinstance(weights, TensorDict) else weights.restored(tables)
    tables |= {"zch": run.best["zch"]} if "zch" in run.best else {}
    return run.train._replace(params=run.best["params"], state=run.best["state"], tables=tables)


def _copied(tables: Any) -> Any:
    return tables.clone() if isinstance(tables, Tensor) else {name: _copied(x) for name, x in tables.items()}


def _best(ts: TrainState, others: Replicas) -> dict[str, Any]:
    """Copies of all that predictions depend on."""
    kept = others.keeper.kept(ts.tables) if others.keeper else ts.tables["weights"].clone()
    more = {"zch": _copied(ts.tables["zch"])} if "zch" in ts.tables else {}
    return {"params": ts.params.clone(), "state": ts.state.clone(), "weights": kept, **more}


def loss_of_all(loss: float | Tensor, others: Replicas) -> float:
    """A sum of losses as a number: where it is a tensor, the sum over the processes, each of which has a share."""
    return others.total([float(loss)])[0] if isinstance(loss, Tensor) and others.world > 1 else float(loss)


def _plus(total: float | Tensor, loss: float | Tensor, others: Replicas) -> float | Tensor:
    """The sum of an epoch's losses after one more, where a number, a resumed sum say, is that of all processes."""
    if isinstance(loss, Tensor) and not isinstance(total, Tensor):
        total = total / others.world
    return total + loss


def _end_of_epoch(run: Run, config: FitConfig, metrics: dict[str, float] | None, others: Replicas) -> Run:
    """Account for a finished epoch: history, best weights, learning rate, early stop."""
    row = {"epoch": float(run.epoch), "loss": loss_of_all(run.loss_sum, others) / max(run.steps, 1), **(metrics or {})}
    run = run._replace(epoch=run.epoch + 1, batch=0, loss_sum=0.0, steps=0, history=(*run.history, row))
    if metrics is None:
        return run
    if config.monitor not in metrics:
        fail(ConfigError, "fit: monitor", got=repr(config.monitor), expected=f"one of {sorted(metrics)}")
    value = metrics[config.monitor] if config.maximize else -metrics[config.monitor]
    if run.best is None or value > run.best["metric"] + config.min_delta:
        best = {"metric": value, "epoch": run.epoch - 1}
        return run._replace(best=best | (_best(run.train, others) if config.keep_best else {}), stale=0)
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

    Over many processes (the step's ``replicas``) each has the same ``run`` and its own ``data`` and ``valid``
    (:func:`part_of`), of as many batches as everybody's. Metrics are merged before anything is decided: all slow down,
    keep weights and stop alike.

    Raises:
        ConfigError: tables of a sharded store in a step whose replicas have no keeper, training data without rows, a
            monitored metric that is not measured.
    """
    others = step.replicas
    if "weights" not in run.train.tables and others.keeper is None:
        fix = "make the step with replicas(group, keeper=keeper(spec, rule, group)) of funcrec.shard"
        fail(ConfigError, "fit: tables", got="those of a sharded store", expected="replicas with a keeper", fix=fix)
    while not finished(run, config):
        shuffle = fold_in(fold_in(run.train.key, "shuffle"), run.epoch)
        pending: list[Trained] = []
        batches: Iterator[Trained] = data.batches(config.batch_size, key=shuffle, start=run.batch)
        if config.ahead:
            batches = ahead(batches, step, run.train, depth=config.ahead)  # type: ignore[arg-type]
        for batch, more in _with_more(batches):
            pending.append(batch)
            if len(pending) < config.accumulate and more:
                continue
            train, info = step.train(run.train, pending)
            run = run._replace(
                train=train,
                batch=run.batch + len(pending),
                loss_sum=_plus(run.loss_sum, info["loss"], others),
                steps=run.steps + 1,
            )
            rows, pending = sum(map(_rows, pending)), []
            yield Report(run, info["loss"], rows)
        if run.steps == 0:
            fail(ConfigError, "fit: the training data has no rows", got=f"epoch {run.epoch} without a batch")
        measured = None
        if valid is not None:
            measured = evaluate(
                step,
                run.train,
                valid,
                metrics or {},
                config.eval_batch_size,
                regression=config.regression,
            )
        run = _end_of_epoch(run, config, measured, others)
        yield Report(run, run.history[-1]["loss"], 0, run.history[-1])


def _rows(given: Trained) -> int:
    batch = given.batch if isinstance(given, Ready) else given
    return 0 if batch is None else len(batch)


def _with_more(batches: Iterator[Trained]) -> Iterator[tuple[Trained, bool]]:
    """Each batch with whether another follows."""
    held: list[Trained] = []
    for batch in batches:
        if held:
            yield held.pop(), True
        held.append(batch)
    if held:
        yield held.pop(), False
