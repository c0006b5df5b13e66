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
import tyro
from job import Job, load_run, local_job
from options import Options, completed
from tqdm import tqdm

from funcrec import metrics
from funcrec.core import tree
from funcrec.core.errors import ConfigError, DataError, FuncrecError, fail
from funcrec.train import FitConfig, Run, Step, best_of, checkpoint, evaluate, fit, part_of
from funcrec.train.fit import finished

METRICS = {"auc": metrics.auc(), "logloss": metrics.log_loss()}


def main(given: Options, job: Job | None = None) -> dict[str, Any]:
    """Train as the options say, in this process or, with another job, in many together; all of them call it."""
    job = job or local_job()
    if given.evaluate is not None:
        return evaluate_checkpoint(given, job)
    o = completed(given)
    started = time.perf_counter()
    data = experiment.read(o)
    o = experiment.with_batch_size(o, data)
    step = job.build(o, data)
    others = step.replicas
    about = experiment.describe(o, data)
    checkpoints = o.out / "checkpoints"
    run = job.fresh(o, step)
    if o.resume or (job.goes_on and any(checkpoints.glob("step-*"))):
        run, _ = checkpoint.load(checkpoint.latest(checkpoints), about, into=run, replicas=others)
        job.say(f"resuming at epoch {run.epoch + 1}, batch {run.batch}, step {int(run.train.step)}")
    elif checkpoints.exists() and any(checkpoints.iterdir()) and not job.goes_on:
        fail(ConfigError, f"{o.out} already holds a run", fix="continue it with --resume, or choose another --out")
    parameters = tree.count(run.train.params) + step.store.spec.parameters
    rows = {name: len(d) for name, d in data.splits.items() if hasattr(d, "__len__")}
    job.say(f"{o.model} on {o.data}: {parameters:,} parameters; rows {rows}; bad rows skipped {data.bad_rows or 0}")

    o.out.mkdir(parents=True, exist_ok=True)
    run, rate = train(o, run, step, data, about, job.main)
    best = best_of(run)
    results = {n: evaluate(step, best, part_of(d, others), METRICS) for n, d in data.splits.items()}
    last = next(d for name, d in reversed(data.splits.items()))
    report.write_predictions(o.out / "predictions.csv", step, best, last, 16384, others)
    if job.main:
        report.draw_learning_curve(
            o.out / "learning_curve.png", o.out / "losses.csv", run, data.best_auc, f"{o.model} on {o.data}"
        )
    for name, ceiling in data.best_auc.items():
        results[name]["best_auc"] = ceiling
    job.say(
        f"learning curve {o.out}/learning_curve.png, checkpoints {checkpoints}, predictions {o.out}/predictions.csv"
    )
    return {
        "model": o.model,
        "data": o.data,
        "seed": o.seed,
        **({"ranks": others.world} if others.world > 1 else {}),
        "parameters": parameters,
        "epochs": run.epoch,
        "seconds": round(time.perf_counter() - started, 2),
        "rows_per_second": rate,
        **results,
    }


def train(
    o: Options,
    run: Run,
    step: Step,
    data: experiment.Data,
    about: dict[str, Any],
    main: bool,
) -> tuple[Run, int | None]:
    """Run ``fit`` to its end: progress bar, losses and TensorBoard of the main process, checkpoints of all.

    Returns the run and the rows per second of its training steps, of all processes together: reading and compiling
    counted, validation and checkpoints not.
    """
    others = step.replicas
    config = FitConfig(
        batch_size=o.batch_size,
        epochs=o.epochs,
        patience=o.patience,
        reduce=o.reduce,
        accumulate=o.accumulate,
        ahead=o.ahead,
    )
    if finished(run, config):
        if main:
            print("nothing left to train")
        return run, None

    def save(run: Run) -> None:
        checkpoint.save(o.out / "checkpoints", run, about, beside=data.vocabularies.save, replicas=others)

    train_data, valid = data.splits["train"], data.splits.get("valid")
    total = len(train_data) if hasattr(train_data, "__len__") else None
    writer: Any = nullcontext()
    if o.tensorboard and main:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(o.out / "tensorboard"), purge_step=int(run.train.step) or None)
    seen, seconds, mark = 0, 0.0, time.perf_counter()
    with (
        report.LossFile(o.out / "losses.csv", int(run.train.step)) if main else nullcontext() as losses,
        writer,
        tqdm(total=total, unit=" rows", unit_scale=True, disable=not (o.progress and main), mininterval=0.5) as bar,
    ):
        bar.update(run.batch * o.batch_size)
        bar.set_description(f"epoch {run.epoch + 1}/{o.epochs}")
        own, checked = part_of(train_data, others), None if valid is None else part_of(valid, others)
        for r in fit(run, step, own, config, valid=checked, metrics=METRICS):
            run, at = r.run, int(r.run.train.step)
            if r.metrics is None:
                seen, seconds = seen + r.rows, seconds + time.perf_counter() - mark
                if losses is not None:
                    losses.add(at, float(r.loss))
                done = run.batch * o.batch_size
                bar.update((min(done, total) if total else done) - bar.n)
                bar.set_postfix(loss=f"{r.loss:.4f}", refresh=False)
                if o.tensorboard and main and at % 10 == 0:
                    report.scalars(writer, at, {"loss": r.loss}, "train")
                if o.checkpoint_steps and at % o.checkpoint_steps == 0:
                    save(run)
                mark = time.perf_counter()
                continue
            save(run)
            measured = {name: value for name, value in r.metrics.items() if name != "epoch"}
            if o.tensorboard and main:
                report.scalars(writer, at, measured, "epoch")
            if main:
                tqdm.write(f"epoch {run.epoch:3d}  " + "  ".join(f"{k} {v:.5f}" for k, v in measured.items()))
            if not finished(run, config):
                bar.reset(total)
                bar.set_description(f"epoch {run.epoch + 1}/{o.epochs}")
            mark = time.perf_counter()
    if run.best is not None and main:
        print(f"best epoch {run.best['epoch'] + 1}, validation AUC {run.best['metric']:.5f}")
    (seen,) = others.total([seen])
    return run, round(seen / seconds) if seen else None


def evaluate_checkpoint(given: Options, job: Job) -> dict[str, Any]:
    """Measure a checkpoint's best weights on the given files, with the schema and vocabularies saved beside it."""
    path, o, run, data, step = load_run(given, job)
    best, others = best_of(run), step.replicas
    results = {
        name: evaluate(step, best, part_of(d, others), METRICS) for name, d in data.splits.items() if name != "train"
    }
    return {"model": o.model, "data": o.data, "seed": o.seed, "checkpoint": str(path), "epochs": run.epoch, **results}


if __name__ == "__main__":
    try:
        print(json.dumps(main(tyro.cli(Options, description=Options.__doc__))))
    except FuncrecError as error:
        hint = " (--max-bad-rows N skips and counts bad rows)" if isinstance(error, DataError) else ""
        print(f"error: {error}{hint}", file=sys.stderr)
        sys.exit(1)
