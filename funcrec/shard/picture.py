"""A plan as a picture: memory and time of every rank in stacked bars, and what each kind of sharding holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from funcrec.shard.costs import BUFFERS, EXCHANGE, KINDS, LOOKUP, STATE, UPDATE, WEIGHTS
from funcrec.shard.explain import milliseconds, size
from funcrec.shard.placement import Plan

_BARS = 64  # more ranks than that are drawn as filled outlines, bars would be thinner than a pixel


def draw(plan: Plan, path: Path) -> None:
    """Write the picture. matplotlib is imported here and its global state left alone."""
    from matplotlib.figure import Figure

    t = plan.setting.topology
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[4, 1.15])
    memory, time = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    _memory(memory, plan)
    _time(time, plan)
    for ax in (memory, time):
        ax.set_xlim(-0.5, t.ranks - 0.5)
        ax.margins(y=0)
        ax.spines[["top", "right"]].set_visible(False)
        if 1 < t.hosts <= _BARS:
            for host in range(1, t.hosts):
                ax.axvline(host * t.per_host - 0.5, color="0.75", lw=0.5, zorder=0)
        _legend(ax)
    memory.tick_params(labelbottom=False)
    time.set_xlabel("rank" + (", lines between hosts" if 1 < t.hosts <= _BARS else ""))
    if t.ranks <= 16:
        time.set_xticks(range(t.ranks))
        memory.set_xticks(range(t.ranks))
    _kinds(figure.add_subplot(grid[0, 1]), plan, "bytes")
    _kinds(figure.add_subplot(grid[1, 1]), plan, "time")
    parameters = sum(p.table.rows * p.table.dim for p in plan.placements)
    figure.suptitle(
        f"{len(plan.placements):,} tables, {parameters:.3g} parameters on {t}, batch {plan.setting.batch:,} a rank, "
        f"{plan.setting.rule.name}: step {milliseconds(plan.step_time)}",
        fontsize=11,
    )
    figure.savefig(path, dpi=130)


def _legend(ax: Any) -> None:
    """Stacked parts, then the limits: matplotlib would name lines and areas before bars."""
    entries = list(zip(*ax.get_legend_handles_labels(), strict=True))
    entries.sort(key=lambda e: e[1].startswith(("reserve", "memory", "mean")))
    handles, labels = zip(*entries, strict=True)
    ax.legend(handles, labels, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _stack(ax: Any, parts: list[tuple[str, np.ndarray, str]]) -> None:
    ranks = len(parts[0][1])
    bottom = np.zeros(ranks)
    for label, height, color in parts:
        if ranks <= _BARS:
            ax.bar(np.arange(ranks), height, bottom=bottom, width=0.86, color=color, label=label)
        else:
            edges = np.arange(ranks + 1) - 0.5
            ax.stairs(bottom + height, edges, baseline=bottom, fill=True, color=color, label=label)
        bottom = bottom + height


def _memory(ax: Any, plan: Plan) -> None:
    load, one = plan.load / 1e9, np.ones(plan.setting.topology.ranks)
    parts = [
        ("weights", load[:, WEIGHTS], "tab:blue"),
        ("optimizer state", load[:, STATE], "tab:orange"),
        ("exchange buffers", load[:, BUFFERS], "tab:green"),
        ("own batch", plan.local_bytes / 1e9 * one, "tab:olive"),
    ]
    if plan.dense_bytes:
        parts.append(("dense", plan.dense_bytes / 1e9 * one, "0.6"))
    _stack(ax, parts)
    memory = plan.setting.topology.memory
    ax.axhspan(plan.capacity / 1e9, memory / 1e9, color="0.9", zorder=0, label=f"reserve, {plan.reserve:.0%}")
    ax.axhline(memory / 1e9, color="0.3", lw=1, label=f"memory, {size(memory)}")
    most = float(plan.rank_bytes.max())
    ax.set(ylabel="memory (GB)", ylim=(0, memory / 1e9 * 1.02))
    ax.set_title(f"fullest rank {size(most)}, {most / plan.capacity:.0%} of what may be filled", fontsize=9, loc="left")


def _time(ax: Any, plan: Plan) -> None:
    load = plan.load * 1e3
    _stack(
        ax,
        [
            ("lookup", load[:, LOOKUP], "tab:purple"),
            ("exchange", load[:, EXCHANGE], "tab:red"),
            ("update", load[:, UPDATE], "tab:cyan"),
        ],
    )
    mean = float(plan.rank_time.mean()) * 1e3
    ax.axhline(mean, color="0.2", lw=1, ls="--", label=f"mean, {mean:.3g} ms")
    ax.set(ylabel="table work in a step (ms)", ylim=(0, float(plan.rank_time.max()) * 1e3 * 1.08 or 1))
    ax.set_title(f"busiest rank / mean = {plan.imbalance:.3f}", fontsize=9, loc="left")


def _kinds(ax: Any, plan: Plan, what: str) -> None:
    """Of each kind, the bytes on all ranks, or the time summed over ranks."""
    kinds = [k for k in KINDS if any(p.kind == k for p in plan.placements)]
    mine = [[p for p in plan.placements if p.kind == k] for k in kinds]
    if what == "bytes":
        values = [float(sum(p.weight_bytes + p.state_bytes for p in ps)) for ps in mine]
        counts = [f"{len(ps):,} table{'s' if len(ps) > 1 else ''}" for ps in mine]
        labels = [f"{count}, {size(v)}" for count, v in zip(counts, values, strict=True)]
    else:
        values = [sum(p.option.total_time for p in ps) / plan.setting.topology.ranks for ps in mine]
        labels = [milliseconds(v) for v in values]
    ax.barh(range(len(kinds)), values, color="0.8")
    for i, (kind, label) in enumerate(zip(kinds, labels, strict=True)):
        ax.text(0, i, f" {kind}\n {label}", va="center", fontsize=8)
    ax.set(ylim=(len(kinds) - 0.4, -0.6), xticks=[], yticks=[])
    ax.set_title("weights and state by sharding" if what == "bytes" else "time a rank by sharding", fontsize=9)
    ax.spines[:].set_visible(False)
