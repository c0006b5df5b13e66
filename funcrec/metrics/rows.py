"""Rows kept by a metric: chunks of equally long columns, to which a batch is added without copying the earlier ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from funcrec.core.errors import DataError, fail

Columns = dict[str, Tensor]


def length(chunk: Columns) -> int:
    return len(next(iter(chunk.values())))


def concatenate(chunks: Sequence[Columns]) -> Columns:
    """All rows, in order."""
    if len(chunks) == 1:
        return chunks[0]
    return {name: torch.cat([c[name] for c in chunks]) for name in chunks[0]}


def append(metric: str, chunks: tuple[Columns, ...], chunk: Columns) -> tuple[Columns, ...]:
    """The chunks with one more, those at the end joined so that sizes fall from left to right.

    Like the carry of a binary counter: n updates leave at most log2(n) + 1 chunks, and no row is copied more than
    log2(n) + 1 times.
    """
    if length(chunk) == 0:
        return chunks
    if chunks:
        kinds, first = ({name: x.dtype for name, x in c.items()} for c in (chunk, chunks[0]))
        if kinds != first:
            fix = "give every update the same columns (weights always or never) in the same dtype"
            fail(DataError, f"{metric}: columns of an update", got=kinds, expected=first, fix=fix)
        chunk = {name: x.to(chunks[0][name].device) for name, x in chunk.items()}
    keep, joined = len(chunks), length(chunk)
    while keep > 0 and length(chunks[keep - 1]) <= joined:
        keep -= 1
        joined += length(chunks[keep])
    return (*chunks[:keep], concatenate((*chunks[keep:], chunk)))


def starts(x: Tensor) -> Tensor:
    """True where a sorted row differs from the one before, and for the first, bool ``[n]``."""
    new = torch.ones_like(x, dtype=torch.bool)
    torch.ne(x[1:], x[:-1], out=new[1:])
    return new
