"""Train, resume, evaluate: ``python examples/train.py --help``.

The last line printed is one JSON object with the results.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from typing import Any

import experiment
import report
import torch
import tyro
from options import Options, completed
from tqdm import tqdm

from funcrec import metrics
from funcrec.core import tree
from funcrec.core.errors import ConfigError, DataError, FuncrecError, fail
from funcrec.core.random import key
from funcrec.train import FitConfig, Run, Step, best_of, checkpoint, evaluate, fit
from funcrec.train.fit import finished

METRICS = {"auc": metrics.auc(), "logloss": metrics.log_loss()}


def main(given: Options) -> dict[str, Any]:
    if given.evaluate is not None:
        return evaluate_checkpoint(given)
    o = completed(given)
    started = time.perf_counter()
    data = experiment.read(o)
    o = experiment.with_batch_size(o, data)
    step = experiment.build(o, data.fields)
    about = experiment.describe(o, data)
    checkpoints = o.out / "checkpoints"
    if o.resume:
        run, _ = checkpoint.load(checkpoint.latest(checkpoints), about)
        print(f"resuming at epoch {run.epoch + 1}, batch {run.batch}, step {int(run.train.step)}")
    elif checkpoints.exists() and any(checkpoints.iterdir()):
        fail(ConfigError, f"{o.out} already holds a run", fix="continue it with --resume, or choose another --out")
    else:
        device = ("cuda" if torch.cuda.is_available() else "cpu") if o.device == "auto" else o.device
        run = Run(step.init(key(o.seed, device)))
    parameters = tree.count(run.train.params) + step.store.spec.parameters
    rows = {name: len(d) for name, d in data.splits.items() if hasattr(d, "__len__")}
    print(f"{o.model} on {o.data}: {parameters:,} parameters; rows {rows}; bad rows skipped {data.bad_rows or 0}")

    o.out.mkdir(parents=True, exist_ok=True)
    run, rate = train(o, run, step, data, about)
    best = best_of(run)
    results = {name: evaluate(step, best, d, METRICS) for name, d in data.splits.items()}
    last = next(d for name, d in reversed(data.splits.items()))
    report.write_predictions(o.out / "predictions.csv", step, best, last, 16384)
    report.draw_learning_curve(
        o.out / "learning_curve.png", o.out / "losses.csv", run, data.best_auc, f"{o.model} on {o.data}"
    )
    for name, ceiling in data.best_auc.items():
        results[name]["best_auc"] = ceiling
    print(f"learning curve {o.out}/learning_curve.png, checkpoints {checkpoints}, predictions {o.out}/predictions.csv")
    return {
        "model": o.model,
        "data": o.data,
        "seed": o.seed,
        "parameters": parameters,
        "epochs": run.epoch,
        "seconds": round(time.perf_counter() - started, 2),
        "rows_per_second": rate,
        **results,
    }


def train(o: Options, run: Run, step: Step, data: experiment.Data, about: dict[str, Any]) -> tuple[Run, int | None]:
    """Run ``fit`` to its end: progress bar, losses, TensorBoard, checkpoints.

    Returns the run and the rows per second of its training steps: reading and compiling counted, validation and
    checkpoints not.
    """
    config = FitConfig(
        batch_size=o.batch_size, epochs=o.epochs, patience=o.patience, reduce=o.reduce, accumulate=o.accumulate
    )
    if finished(run, config):
        print("nothing left to train")
        return run, None

    def save(run: Run) -> None:
        checkpoint.save(o.out / "checkpoints", run, about, beside=data.vocabularies.save)

    train_data = data.splits["train"]
    total = len(train_data) if hasattr(train_data, "__len__") else None
    writer: Any = nullcontext()
    if o.tensorboard:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(o.out / "tensorboard"), purge_step=int(run.train.step) or None)
    seen, seconds, mark = 0, 0.0, time.perf_counter()
    with (
        report.LossFile(o.out / "losses.csv", int(run.train.step)) as losses,
        writer,
        tqdm(total=total, unit=" rows", unit_scale=True, disable=not o.progress, mininterval=0.5) as bar,
    ):
        bar.update(run.batch * o.batch_size)
        bar.set_description(f"epoch {run.epoch + 1}/{o.epochs}")
        for r in fit(run, step, train_data, config, valid=data.splits.get("valid"), metrics=METRICS):
            run, at = r.run, int(r.run.train.step)
            if r.metrics is None:
                seen, seconds = seen + r.rows, seconds + time.perf_counter() - mark
                losses.add(at, r.loss)
                bar.update(r.rows)
                bar.set_postfix(loss=f"{r.loss:.4f}", refresh=False)
                if o.tensorboard and at % 10 == 0:
                    report.scalars(writer, at, {"loss": r.loss}, "train")
                if o.checkpoint_steps and at % o.checkpoint_steps == 0:
                    save(run)
                mark = time.perf_counter()
                continue
            save(run)
            measured = {name: value for name, value in r.metrics.items() if name != "epoch"}
            if o.tensorboard:
                report.scalars(writer, at, measured, "epoch")
            tqdm.write(f"epoch {run.epoch:3d}  " + "  ".join(f"{k} {v:.5f}" for k, v in measured.items()))
            if not finished(run, config):
                bar.reset(total)
                bar.set_description(f"epoch {run.epoch + 1}/{o.epochs}")
            mark = time.perf_counter()
    if run.best is not None:
        print(f"best epoch {run.best['epoch'] + 1}, validation AUC {run.best['metric']:.5f}")
    return run, round(seen / seconds) if seen else None


def evaluate_checkpoint(given: Options) -> dict[str, Any]:
    """Measure a checkpoint's best weights on the given files, with the schema and vocabularies saved beside it."""
    path, o, run, data = experiment.load_run(given)
    step = experiment.build(o, data.fields)
    results = {name: evaluate(step, best_of(run), d, METRICS) for name, d in data.splits.items() if name != "train"}
    return {"model": o.model, "data": o.data, "seed": o.seed, "checkpoint": str(path), "epochs": run.epoch, **results}


if __name__ == "__main__":
    try:
        print(json.dumps(main(tyro.cli(Options, description=Options.__doc__))))
    except FuncrecError as error:
        hint = " (--max-bad-rows N skips and counts bad rows)" if isinstance(error, DataError) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        sys.exit(1)
