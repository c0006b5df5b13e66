"""A roofline picture of what kernels.py measured.

python examples/bench/roofline.py examples/bench/results/kernels.json roofline.png

Every case is a column at its arithmetic intensity: operations over the bytes that it must read and write. The roofs are
the rates measured in that run; an arrow leads from the better naive form to the better fast one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

COLORS = {"bf16": "tab:blue", "tf32": "tab:orange", "fp32": "tab:green"}


def best(forms: dict[str, Any], prefix: str, what: str) -> float:
    return min(r[what] for k, r in forms.items() if k.startswith(prefix))


def draw(record: dict[str, Any], ax: Any, what: str) -> None:
    rates, results = record["rates"], [r for r in record["results"] if "ratio" in r]
    intensity = lambda r: r["work"][what]["flops"] / r["work"][what]["bytes"]  # noqa: E731
    xs = [min(map(intensity, results)) / 2, max(map(intensity, results)) * 2]
    for precision, color in COLORS.items():
        knee = rates[precision] / rates["copy"]
        roof = [
            (x, min(x * rates["copy"], rates[precision]) / 1e12) for x in sorted([*xs, min(max(knee, xs[0]), xs[1])])
        ]
        ax.plot(*zip(*roof, strict=True), color=color, lw=1, label=f"roof, {precision}")
    for r in results:
        x, color = intensity(r), COLORS[r["precision"]]
        ys = [r["work"][what]["flops"] / best(r["forms"], form, what) / 1e6 for form in ("naive", "fast")]
        ax.annotate("", xy=(x, ys[1]), xytext=(x, ys[0]), arrowprops={"arrowstyle": "->", "color": color, "lw": 1.2})
        ax.plot([x], ys[:1], "o", color=color, mfc="none", ms=4)
        ax.plot([x], ys[1:], "o", color=color, ms=5)
        ax.text(x * 1.06, ys[1], r["case"].split(" B")[0], fontsize=6, color=color, va="center")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="operations a byte",
        title={"f": "forward", "fb": "forward + gradients"}[what],
    )
    ax.grid(alpha=0.2)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:3])
    record = json.loads(source.read_text())
    figure, axes = plt.subplots(1, 2, figsize=(12, 5), constrained_layout=True)
    for ax, what in zip(axes, ("f", "fb"), strict=True):
        draw(record, ax, what)
    axes[0].set_ylabel("TFLOP/s")
    axes[0].legend(fontsize=7, loc="lower right")
    figure.suptitle(f"{record['machine']}: naive form (ring) to fast path (dot)", fontsize=9)
    figure.savefig(target, dpi=130)
