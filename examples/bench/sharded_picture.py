"""A picture of what sharded.py measured, all numbers of ranks in one file.

python examples/bench/sharded_picture.py examples/bench/results/sharded_h100.json sharded.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

COLORS = {
    "lookup": "tab:green",
    "exchange": "tab:red",
    "dense": "tab:blue",
    "update": "tab:olive",
    "copies": "tab:gray",
}


def best(ms: dict[str, float]) -> str:
    """The fastest candidate of ours."""
    return min((name for name in ms if name != "torchrec"), key=lambda name: ms[name])


def draw_rates(runs: dict[str, Any], rows: str, ax: Any) -> None:
    """Rows a second by number of ranks."""
    ranks = sorted(runs, key=int)
    for at, (side, color) in enumerate({"torchrec": "tab:gray", "funcrec": "tab:blue"}.items()):
        for i, n in enumerate(ranks):
            ms = runs[n]["batches"][rows]["ms"]
            name = "torchrec" if side == "torchrec" else best(ms)
            rate = int(rows) / ms[name] / 1e3
            bar = ax.bar(i + 0.4 * (at - 0.5), rate, 0.38, color=color, label=side if i == 0 else None)
            ax.bar_label(bar, [f"{rate:.2f}"], fontsize=8)
            if side == "funcrec":
                ax.text(i + 0.2, 0.1, name.replace("+", "\n"), fontsize=6, ha="center", color="white")
    ax.set_xticks(range(len(ranks)), [f"{n} GPU{'s' if n != '1' else ''}" for n in ranks])
    ax.set(title=f"global batch {rows}", ylabel="million rows a second")
    ax.legend(fontsize=8)


def draw_split(runs: dict[str, Any], rows: str, ax: Any) -> None:
    """GPU work of a step by kind, and how long the step takes."""
    labels = []
    for n in sorted(runs, key=int):
        held = runs[n]["batches"][rows]
        for name in ("torchrec", best(held["ms"])):
            left, y = 0.0, len(labels)
            for kind, color in COLORS.items():
                t = held["split"][name][kind]
                ax.barh(y, t, left=left, color=color, label=kind if y == 0 else None)
                left += t
            ax.plot([held["ms"][name]] * 2, [y - 0.4, y + 0.4], color="black", lw=2, label=None if y else "the step")
            labels.append(f"{name.replace('+', ' ')}, {n} GPU{'s' if n != '1' else ''}")
    ax.set_yticks(range(len(labels)), labels, fontsize=8)
    ax.invert_yaxis()
    ax.set(title=f"global batch {rows}: GPU work of a step", xlabel="milliseconds on rank 0")
    ax.legend(fontsize=7)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    runs = json.loads(source.read_text())
    sizes = list(next(iter(runs.values()))["batches"])
    figure, axes = plt.subplots(1, len(sizes) + 1, figsize=(5 * len(sizes) + 6, 4), constrained_layout=True)
    for rows, ax in zip(sizes, axes, strict=False):
        draw_rates(runs, rows, ax)
    draw_split(runs, sizes[0], axes[-1])
    figure.suptitle("DLRM train steps: " + "; ".join(run["machine"] for run in runs.values()), fontsize=9)
    figure.savefig(target, dpi=130)
