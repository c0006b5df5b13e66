"""Lookups: one id a result, and pooled ones, weighted and plain, bags of none, one and many ids."""

from __future__ import annotations

from typing import Any

import torch

from funcrec.core.random import fold_in, key, normal, randint
from funcrec.kernels import lookup
from tests.kernels.cases import OpCase, Size

SIZES: dict[Size, tuple[int, int, int]] = {"tiny": (7, 5, 4), "odd": (5003, 33, 1037)}  # rows, columns, bags


def _make(dtype: torch.dtype, device: str, size: Size, *, weighted: bool, index: torch.dtype) -> tuple[Any, ...]:
    rows, d, bags = SIZES[size]
    k = key(1, device)
    lengths = randint(fold_in(k, "lengths"), bags, 0, 7)
    lengths[0], lengths[-1] = 0, bags + 3
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    nnz = int(offsets[-1])
    ids = randint(fold_in(k, "ids"), nnz, 0, rows).to(index)
    weight = normal(fold_in(k, "weight"), (rows, d)).to(dtype)
    return weight, ids, offsets, normal(fold_in(k, "factors"), (nnz,)).to(dtype) if weighted else None


def _case(name: str, weighted: bool, index: torch.dtype) -> OpCase:
    return OpCase(name, lookup.pooled, lookup.pooled_reference, lambda *a: _make(*a, weighted=weighted, index=index))


def _make_gathered(dtype: torch.dtype, device: str, size: Size) -> tuple[Any, ...]:
    return _make(dtype, device, size, weighted=False, index=torch.int64)[:2]


CASES = [_case("pooled", False, torch.int32), _case("pooled_weighted", True, torch.int64)]
CASES.append(OpCase("gathered", lookup.gathered, lookup.gathered_reference, _make_gathered))
