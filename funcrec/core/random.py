"""Randomness as a function of a key: the same bits on every device, in eager mode, under ``vmap`` and when compiled.

A key is an int64 tensor (one number a key, any batch shape under ``vmap``). Numbers are a keyed 32-bit hash of their
own index, so element ``i`` does not depend on how many others are drawn beside it on which device. The mixing function
is the xor-shift-multiply permutation of 32-bit words with the low-bias constants of C. Wellons' hash prospector; all
arithmetic stays inside int64 without overflow, which is what makes it exact in C++, CUDA and Triton alike.

``torch``'s own generators cannot do this: ``F.dropout`` fails under the default ``vmap``, a ``torch.Generator``
argument breaks full-graph compilation, and the bits of CPU and GPU generators differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from funcrec.core.errors import FuncrecError, fail

_WORD = 0xFFFFFFFF
_KEY_BITS = (1 << 62) - 1
# The second multiplier is 0xD35A2D97 - 2**32: equal modulo 2**32, and the product cannot leave int64.
_MULTIPLIERS = (0x21F0AAAD, 0xD35A2D97 - (1 << 32))
_CHUNK = 1 << 24  # elements hashed at once: bounds the int64 temporaries of a large draw at about a gigabyte


def _mix(x: Tensor) -> Tensor:
    """A permutation of [0, 2**32) in which each input bit flips each output bit about half of the time."""
    x = ((x ^ (x >> 16)) * _MULTIPLIERS[0]) & _WORD
    x = ((x ^ (x >> 15)) * _MULTIPLIERS[1]) & _WORD
    return x ^ (x >> 15)


def _bits(key: Tensor, counter: Tensor, stream: int) -> Tensor:
    """The ``stream``-th 32-bit word of ``counter`` under ``key``, in an int64 tensor."""
    low, high = key & _WORD, (key >> 32) & _WORD
    # The second round key depends on both halves: keys that share one half must not share an orbit of the first.
    second = _mix(low ^ _mix((high + 0x9E3779B9 * (stream + 1)) & _WORD))
    x = _mix((counter & _WORD) ^ low)
    return _mix(((x + second) & _WORD) ^ ((counter >> 32) & _WORD))


def _check_key(key: Tensor) -> None:
    if not isinstance(key, Tensor) or key.dtype != torch.int64 or key.dim() != 0:
        seen = f"{tuple(key.shape)} {key.dtype}" if isinstance(key, Tensor) else type(key).__name__
        fail(
            FuncrecError,
            "random key",
            got=seen,
            expected="a scalar int64 tensor",
            fix="make one with funcrec.core.random.key(seed); map over several keys with torch.vmap",
        )


def key(seed: int, device: torch.device | str | None = None) -> Tensor:
    """A key from an integer seed: a scalar int64 tensor."""
    return fold_in(torch.zeros((), dtype=torch.int64, device=device), int(seed) % (1 << 63))


def _name_number(name: str) -> int:
    """FNV-1a of the name's characters: stable across processes, unlike ``hash``; traceable, unlike ``hashlib``."""
    h = 0xCBF29CE484222325
    for character in name:
        h = ((h ^ ord(character)) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return (h ^ (h >> 62)) & _KEY_BITS


def fold_in(key: Tensor, data: int | str | Tensor) -> Tensor:
    """A new key for a named or numbered purpose; the same ``(key, data)`` always gives the same key.

    Folding by name is what keeps initial weights stable: adding a layer does not reshuffle its siblings.
    """
    _check_key(key)
    number = _name_number(data) if isinstance(data, str) else data
    if not isinstance(number, Tensor):  # filled there: a number copied to a GPU would wait for it
        number = torch.full((), number, dtype=torch.int64, device=key.device)
    counter = number.to(key.device, torch.int64)
    return ((_bits(key, counter, 1) & 0x3FFFFFFF) << 32) | _bits(key, counter, 2)


def child(key: Tensor | None, name: str) -> Tensor | None:
    """``fold_in`` for a key that may be absent: what a composed function hands to its named parts."""
    return None if key is None else fold_in(key, name)


def split(key: Tensor, n: int = 2) -> Tensor:
    """``n`` independent keys, int64 ``[n]``."""
    _check_key(key)
    counter = torch.arange(n, device=key.device)
    return ((_bits(key, counter, 3) & 0x3FFFFFFF) << 32) | _bits(key, counter, 4)


_window: tuple[tuple[int, ...], int, int] | None = None


@contextmanager
def only_rows(shape: Sequence[int], start: int, stop: int) -> Iterator[None]:
    """Draws of this ``shape`` inside give its rows ``start`` to ``stop``, the numbers that they have in the whole.

    For parts of what is too large to be drawn whole: an initializer still sees the shape that it asks for.
    """
    global _window
    before, _window = _window, (tuple(shape), start, stop)
    try:
        yield
    finally:
        _window = before


def _draw(key: Tensor, shape: int | Sequence[int], element) -> Tensor:
    """Fill ``shape`` with ``element(key, counter)``, in chunks so that a table of 10**9 entries fits."""
    _check_key(key)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    first, n = 0, math.prod(shape)
    if _window is not None and shape == _window[0]:
        _, start, stop = _window
        first, n = start * math.prod(shape[1:]), (stop - start) * math.prod(shape[1:])
        shape = (stop - start, *shape[1:])
    if isinstance(n, int) and n > _CHUNK:
        starts = range(first, first + n, _CHUNK)
        parts = [element(key, torch.arange(s, min(first + n, s + _CHUNK), device=key.device)) for s in starts]
        return torch.cat(parts).reshape(shape)
    return element(key, torch.arange(first, first + n, device=key.device)).reshape(shape)


def bits(key: Tensor, shape: int | Sequence[int]) -> Tensor:
    """Uniform integers in [0, 2**32), int64."""
    return _draw(key, shape, lambda k, c: _bits(k, c, 0))


def uniform(
    key: Tensor,
    shape: int | Sequence[int] = (),
    low: float = 0.0,
    high: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Uniform numbers in [low, high), with as many random bits as ``dtype`` has in its mantissa."""
    dtype = dtype or torch.get_default_dtype()

    def element(k: Tensor, c: Tensor) -> Tensor:
        if dtype == torch.float64:
            unit = ((_bits(k, c, 0) >> 5) * (1 << 26) + (_bits(k, c, 5) >> 6)).to(dtype) * 2.0**-53
        else:
            mantissa = {torch.float16: 11, torch.bfloat16: 8}.get(dtype, 24)
            unit = (_bits(k, c, 0) >> (32 - mantissa)).to(dtype) * 2.0**-mantissa
        return unit if (low, high) == (0.0, 1.0) else unit * (high - low) + low

    return _draw(key, shape, element)


def normal(
    key: Tensor,
    shape: int | Sequence[int] = (),
    mean: float = 0.0,
    std: float = 1.0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Normal numbers by the Box-Muller transform, computed in float64 and rounded once to ``dtype``.

    Devices and compilers may differ in the last bit of a float64 logarithm; after rounding to float32 that shows in
    fewer than one element in 10**8. Magnitudes reach 6.7 standard deviations.
    """
    dtype = dtype or torch.get_default_dtype()

    def element(k: Tensor, c: Tensor) -> Tensor:
        radius = torch.sqrt(-2.0 * torch.log((_bits(k, c, 0).double() + 0.5) * 2.0**-32))
        angle = _bits(k, c, 5).double() * (2.0 * math.pi * 2.0**-32)
        return (radius * torch.cos(angle) * std + mean).to(dtype)

    return _draw(key, shape, element)


def bernoulli(key: Tensor, p: float | Tensor, shape: int | Sequence[int] = ()) -> Tensor:
    """True with probability ``p`` (to within 2**-32), bool; ``p``: a number or a tensor of that shape."""
    threshold = p.double() * 2.0**32 if isinstance(p, Tensor) else p * 2.0**32
    return bits(key, shape) < threshold


def randint(key: Tensor, shape: int | Sequence[int], low: int, high: int) -> Tensor:
    """Uniform integers in [low, high), int64; the bias of a range of n values is below n / 2**62."""
    if high <= low:
        fail(FuncrecError, "randint", got=f"[{low}, {high})", expected="low < high")

    def element(k: Tensor, c: Tensor) -> Tensor:
        return low + ((_bits(k, c, 0) & 0x3FFFFFFF) * (1 << 32) + _bits(k, c, 5)) % (high - low)

    return _draw(key, shape, element)


def permutation(key: Tensor, n: int) -> Tensor:
    """A uniformly random order of ``0..n-1``, int64 ``[n]``."""
    words = _draw(key, n, lambda k, c: (_bits(k, c, 0) & 0x3FFFFFFF) * (1 << 32) + _bits(k, c, 5))
    return torch.argsort(words, stable=True)
