"""A plan as text that a person reads: tables alike in one line, then memory and time of the ranks, then the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from funcrec.shard.costs import BUFFERS, EXCHANGE, KINDS, LOOKUP, STATE, UPDATE, WEIGHTS
from funcrec.shard.placement import Placement, Plan

_HEAD = ("table", "rows", "dim", "dtype", "bytes", "sharding", "ranks", "on a rank", "time")
_RIGHT = {1, 2, 4, 7, 8}


def describe(plan: Plan, lines: int = 40) -> str:
    """The whole plan; at most so many lines of tables, the largest, and what is left by kind.

    ``bytes`` are weights and optimizer state on all ranks together; ``on a rank`` and ``time`` those of the largest
    shard, exchange buffers included.
    """
    s, t = plan.setting, plan.setting.topology
    parameters = sum(p.table.rows * p.table.dim for p in plan.placements)
    tables = f"{len(plan.placements):,} table{'s' if len(plan.placements) > 1 else ''}"
    title = f"{tables}, {parameters:.4g} parameters, on {t}; batch {s.batch:,} a rank, {s.rule.name}"
    groups: dict[tuple, list[Placement]] = {}
    for p in plan.placements:
        alike = (p.table.rows, p.table.dim, p.table.dtype, p.kind, p.columns, p.use)
        groups.setdefault(alike, []).append(p)
    ordered = sorted(groups.values(), key=lambda g: -_bytes(g))
    shown = ordered[: lines if len(ordered) > lines + len(KINDS) else len(ordered)]
    rows = [_HEAD, *(_line(g) for g in shown)]
    for kind in KINDS:
        rest = [p for g in ordered[len(shown) :] for p in g if p.kind == kind]
        if rest:
            rows.append(_rest_line(kind, rest))
    return "\n".join([title, "", *_aligned(rows, _RIGHT), "", *_ranks(plan), "", *_step(plan)])


def _line(group: Sequence[Placement]) -> tuple[str, ...]:
    p = group[0]
    name = p.table.name if len(group) == 1 else f"{p.table.name} … {group[-1].table.name} ({len(group):,})"
    dtype = str(p.table.dtype).removeprefix("torch.")
    blocks, pieces = p.option.blocks, int(p.option.counts[p.option.rows > 0].sum())
    cut = {"row_wise": f" {pieces}", "table_row_wise": f" {pieces}", "grid": f" {pieces}x{blocks}"}
    kind = p.kind + (f" {blocks}" if p.kind == "column_wise" else cut.get(p.kind, ""))
    return (
        name, f"{p.table.rows:,}", str(p.table.dim), dtype, size(_bytes(group)), kind, _rank_list(group),
        size(p.rank_bytes), f"{p.time * 1e3:.3f} ms",
    )  # fmt: skip


def _rest_line(kind: str, rest: Sequence[Placement]) -> tuple[str, ...]:
    most, longest = max(p.rank_bytes for p in rest), max(p.time for p in rest)
    rows = f"{sum(p.table.rows for p in rest):,}"
    return (f"… {len(rest):,} more", rows, "", "", size(_bytes(rest)), kind, "", f"≤ {size(most)}",
            f"≤ {longest * 1e3:.3f} ms")  # fmt: skip


def _rank_list(group: Sequence[Placement]) -> str:
    if group[0].option.span == "all":
        return "all"
    if group[0].option.span == "host":
        width = int(group[0].option.counts.sum())
        first = sorted({r for p in group for r in p.first_ranks})
        shown = [f"{r}-{r + width - 1}" if width > 1 else str(r) for r in first]
    else:
        shown = [str(r) for r in sorted({r for p in group for r in p.first_ranks})]
    return " ".join(shown) if len(shown) <= 4 else f"{shown[0]} … {shown[-1]} ({len(shown)})"


def _ranks(plan: Plan) -> list[str]:
    """Memory and time over ranks."""
    load, one = plan.load, np.ones(plan.setting.topology.ranks)
    memory = [
        ("weights", load[:, WEIGHTS]),
        ("optimizer state", load[:, STATE]),
        ("exchange buffers", load[:, BUFFERS]),
        ("own batch", plan.local_bytes * one),
        *([("dense", plan.dense_bytes * one)] if plan.dense_bytes else []),
        (f"memory, of {size(plan.capacity)}", plan.rank_bytes),
    ]
    times = [
        ("lookup", load[:, LOOKUP]),
        ("exchange", load[:, EXCHANGE]),
        ("update", load[:, UPDATE]),
        ("time", plan.rank_time),
    ]
    rows: list[tuple[str, ...]] = [("over ranks", "min", "mean", "max", "max/mean")]
    for name, values, form in [*((n, v, size) for n, v in memory), *((n, v, milliseconds) for n, v in times)]:
        mean = float(values.mean())
        ratio = f"{float(values.max()) / mean:.2f}" if mean else ""
        rows.append((name, form(values.min()), form(mean), form(values.max()), ratio))
    return _aligned(rows, {1, 2, 3, 4})


def _step(plan: Plan) -> list[str]:
    t = plan.setting.topology
    dense = f" + dense {milliseconds(plan.dense_time)}" if plan.dense_time else ""
    bound = "the host" if plan.host_time > plan.table_time + plan.dense_time else "the devices"
    rate = plan.setting.batch * t.ranks / plan.step_time
    return [
        f"step {milliseconds(plan.step_time)}, bound by {bound}: tables {milliseconds(plan.table_time)}{dense}; host "
        f"{milliseconds(plan.host_time)} for {plan.collectives} collectives; {rate:.3g} rows/s",
        f"assumed: copy {t.copy / 1e12:.3g} TB/s, {t.gather:.0%} of it for scattered rows; "
        f"{t.intra / 1e9:.4g} GB/s in a host, {t.inter / 1e9:.4g} GB/s between hosts, a rank; {plan.reserve:.0%} of "
        "memory kept free",
    ]


def size(value: Any) -> str:
    """Bytes in the unit that keeps one to three digits before the point.

    >>> size(532_000_000)
    '532 MB'
    """
    value = float(value)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}" if value < 1000 else f"{value:,.0f} {unit}"


def milliseconds(seconds: Any) -> str:
    """Seconds as ``"1.23 ms"``."""
    return f"{float(seconds) * 1e3:.3g} ms"


def _bytes(group: Sequence[Placement]) -> int:
    return sum(p.weight_bytes + p.state_bytes for p in group)


def _aligned(rows: Sequence[tuple[str, ...]], right: set[int]) -> list[str]:
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    pad = [str.rjust if i in right else str.ljust for i in range(len(widths))]
    return ["  ".join(p(c, w) for p, c, w in zip(pad, row, widths, strict=True)).rstrip() for row in rows]
