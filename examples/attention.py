"""Draw what DIN attends to: ``python examples/attention.py --run runs/din --test-path …``.

One user's history under two candidates, rows that stand beside each other in the test file of ``din_toys_and_games``:
the item that was next, and the one that was drawn.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import job
import matplotlib
import torch
import tyro
from options import Options
from torch import Tensor

from funcrec.core.errors import ConfigError, FuncrecError, fail
from funcrec.core.ragged import Nested, Ragged
from funcrec.core.rows import cut
from funcrec.layers.din_attention import DINEncoder, din_attention_weights
from funcrec.layers.inputs import sequence_keys, sequence_query
from funcrec.train import best_of
from funcrec.train.evaluation import probabilities

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Attention weights of one user's history, under each of two candidates."""

    run: Path
    """A run of ``train.py --model din``."""
    test_path: tuple[Path, ...]
    """Rows to look at."""
    row: int | None = None
    """The first of two rows that differ in the candidate; None: where the two weigh the same history most unlike each
    other, among histories of 8 to 24 steps in the first 20,000 rows."""
    out: Path = Path("attention.png")


class Attended(NamedTuple):
    """Weights ``[B, T]``, lengths, labels and click probabilities ``[B]``."""

    weights: Tensor
    lengths: Tensor
    labels: Tensor
    probabilities: Tensor


def attend(saved: job.Saved, step, batch) -> Attended:
    """The weights of the first target attention of the model, on a batch."""
    state = best_of(saved.run)
    emb, _ = step.store.lookup(state.tables, batch.ids)
    for group in step.model.groups:
        for i, encoded in enumerate(group.encoded):
            if isinstance(encoded.encoder, DINEncoder):
                keys, lengths = sequence_keys(encoded.sequence, emb, batch.features)
                query = sequence_query(encoded.sequence, emb, batch.features)
                own, held = (t["inputs"]["encoders"][group.name][str(i)] for t in (state.params, state.state))
                weights, _ = din_attention_weights(own, query, keys, lengths, held, encoded.encoder)
                logits, _ = step.model.apply(state.params, emb, batch.features, state.state)
                return Attended(weights, lengths, batch.features["label"], probabilities(logits))
    fail(ConfigError, f"--run {saved.path}", got="a model without target attention", fix="train --model din")


def most_unlike(a: Attended) -> int:
    """The row whose weights differ most from those of the row after it, over the same history."""
    pair = (a.weights[:-1] - a.weights[1:]).abs().sum(1)
    same = (a.lengths[:-1] == a.lengths[1:]) & (a.labels[:-1] > a.labels[1:])
    return int(torch.where(same & (a.lengths[:-1] >= 8) & (a.lengths[:-1] <= 24), pair, -1.0).argmax())


def shared_attributes(batch, shares: dict[str, str], row: int) -> list[int] | None:
    """How many ids each step's bag has in common with the candidate's, where the data has such bags."""
    for history, target in shares.items():
        steps, own = batch.ids.get(history), batch.ids.get(target)
        if isinstance(steps, Nested) and isinstance(own, Ragged):
            wanted = set(own.select(torch.tensor([row])).values.tolist())
            bags = steps.select(torch.tensor([row])).bags
            cut_at = bags.offsets.tolist()
            values = bags.values.tolist()
            return [len(wanted & set(values[i:j])) for i, j in pairwise(cut_at)]
    return None


def draw(path: Path, batch, a: Attended, shares: dict[str, str], row: int, title: str) -> None:
    """One panel a candidate: a bar a step, darker the more attributes it shares with the candidate."""
    figure, panels = plt.subplots(2, 1, figsize=(8, 5), sharex=True, sharey=True, constrained_layout=True)
    for i, panel in zip((row, row + 1), panels, strict=True):
        n = int(a.lengths[i])
        common = shared_attributes(batch, shares, i)
        colours = [plt.get_cmap("Blues")(0.3 + 0.15 * min(c, 4)) for c in common] if common else "C0"
        panel.bar(range(1, n + 1), a.weights[i, :n].tolist(), color=colours, edgecolor="0.3", linewidth=0.5)
        panel.axhline(1 / n, color="0.4", linestyle="--", linewidth=0.8, label="mean pooling")
        for x, c in enumerate(common or []):
            panel.annotate(str(c), (x + 1, float(a.weights[i, x])), ha="center", va="bottom", fontsize=8)
        what = "the item that was next" if a.labels[i] else "a drawn item"
        panel.set(ylabel="attention weight", title=f"candidate: {what}, predicted {float(a.probabilities[i]):.2f}")
        panel.legend(frameon=False)
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1].set(xlabel="step of the history, latest last; numbers: attributes shared with the candidate")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(p: Picture) -> int:
    saved = job.load_run(Options(evaluate=p.run, test_path=p.test_path))
    step = saved.step
    rows = saved.data.splits["test"].rows
    first = 0 if p.row is None else p.row
    if not 0 <= first < len(rows) - 1:
        fail(ConfigError, "--row", got=first, expected=f"0 to {len(rows) - 2}")
    batch = cut(rows, first, min(len(rows), first + (20_000 if p.row is None else 2)))
    with torch.no_grad():
        a = attend(saved, step, batch)
    row = most_unlike(a) if p.row is None else 0
    fields = saved.data.fields
    draw(p.out, batch, a, fields.shares, row, f"What DIN attends to: rows {first + row} and {first + row + 1}")
    print(f"drew {p.out}: rows {first + row} and {first + row + 1}, a history of {int(a.lengths[row])} steps")
    return first + row


if __name__ == "__main__":
    try:
        main(tyro.cli(Picture, description=__doc__))
    except FuncrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
