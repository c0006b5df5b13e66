"""What a run leaves behind: losses by step, a picture of how it learnt, predictions."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import matplotlib
from torch import Tensor

from funcrec.core.replicas import Replicas, alone
from funcrec.train import Run, Step, TrainState, part_of, predict
from funcrec.train.evaluation import Dataset, probabilities

matplotlib.use("Agg")
from matplotlib import pyplot as plt


class LossFile:
    """``losses.csv``: the loss of every step, exact; steps after a resumed checkpoint are cut off and written anew."""

    def __init__(self, path: Path, steps: int) -> None:
        kept = path.read_text().splitlines()[1 : steps + 1] if steps and path.exists() else []
        self.file = path.open("w", buffering=1)
        self.file.write("\n".join(["step,loss", *kept]) + "\n")

    def __enter__(self) -> LossFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, step: int, loss: float) -> None:
        self.file.write(f"{step},{loss!r}\n")


def draw_learning_curve(path: Path, losses: Path, run: Run, best_auc: Mapping[str, float], title: str) -> None:
    """Training loss by step (smoothed over 20), validation AUC by epoch, and the best possible AUC where known."""
    with losses.open() as f:
        rows = list(csv.DictReader(f))
    steps, values = [int(r["step"]) for r in rows], [float(r["loss"]) for r in rows]
    width = max(1, min(20, len(values) // 5))
    smooth = [sum(values[i : i + width]) / width for i in range(len(values) - width + 1)]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    left.plot(steps, values, color="0.8", linewidth=0.8, label="each step")
    left.plot(steps[width - 1 :], smooth, color="C0", label=f"mean of {width} steps")
    left.set(xlabel="step", ylabel="training loss (log loss)", title=title)
    left.legend(frameon=False)
    epochs = [int(row["epoch"]) + 1 for row in run.history]
    if run.history and "auc" in run.history[0]:
        right.plot(epochs, [row["auc"] for row in run.history], marker="o", color="C1", label="validation")
    if "valid" in best_auc:
        right.axhline(best_auc["valid"], color="0.4", linestyle="--", label=f"best possible, {best_auc['valid']:.4f}")
    if right.lines:
        right.set(xlabel="epoch", ylabel="AUC", title="validation", xticks=epochs[:: max(1, len(epochs) // 10)])
        right.legend(frameon=False, loc="lower right")
    else:
        right.axis("off")
    temporary = path.with_suffix(".tmp.png")
    figure.savefig(temporary, dpi=120)
    plt.close(figure)
    temporary.rename(path)


def predictions(
    step: Step, state: TrainState, data: Dataset, batch_size: int, others: Replicas
) -> Iterator[tuple[Tensor, Tensor]]:
    """Labels and probabilities of all rows, in the order of the data; all processes predict their part."""
    own = (
        (batch.features["label"].cpu(), probabilities(logits).cpu())
        for batch, logits in predict(step, state, part_of(data, others), batch_size)
    )
    if others.world == 1:
        yield from own
        return
    for parts in zip_longest(*others.gathered(list(own))):  # of the last batch some may have no rows
        yield from (part for part in parts if part is not None)


def write_predictions(
    path: Path, step: Step, state: TrainState, data: Dataset, batch_size: int, replicas: Replicas | None = None
) -> int:
    """``row,label,probability`` for every row, in the order of the data; returns the number of rows.

    Over many processes all of them call it, and the first one writes.
    """
    others = replicas or alone()
    made = predictions(step, state, data, batch_size, others)
    if others.rank:
        return sum(len(labels) for labels, _ in made)
    n, temporary = 0, path.with_suffix(".tmp")
    with temporary.open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["row", "label", "probability"])
        for labels, p in made:
            rows = enumerate(zip(labels.tolist(), p.tolist(), strict=True), n)
            writer.writerows((i, int(y), f"{q:.6f}") for i, (y, q) in rows)
            n += len(labels)
    temporary.rename(path)
    return n


def scalars(writer: Any, step: int, values: Mapping[str, float], prefix: str) -> None:
    for name, value in values.items():
        writer.add_scalar(f"{prefix}/{name}", value, step)
