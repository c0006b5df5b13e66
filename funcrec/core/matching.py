"""Which hidden layers of two nets can be compared: those of equal width."""

from __future__ import annotations

from collections.abc import Sequence


def matching_layers(light_units: Sequence[int], booster_units: Sequence[int]) -> dict[int, int]:
    """For each light layer i the *first* booster layer j of equal width, ``{i: j}``; layers without one are left out.

    Neither monotone nor one to one: two light layers of one width share the first booster layer of that width.

    >>> matching_layers([96, 64, 32], [256, 128, 64, 32])
    {1: 2, 2: 3}
    >>> matching_layers([64, 64], [64, 64])
    {0: 0, 1: 0}
    """
    widths = list(booster_units)
    return {i: widths.index(width) for i, width in enumerate(light_units) if width in widths}
