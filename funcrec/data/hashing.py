"""A 64-bit hash of texts that is the same on every platform and in every process, computed a byte position at a time.

h = FNV-1a over the UTF-8 bytes, started from the offset basis xor mix(salt), then mixed: FNV alone is weak in its high
bits. ``mix`` is the finaliser of SplitMix64.

Reference: Fowler, Noll, Vo, "The FNV Non-Cryptographic Hash Algorithm"; Steele et al. 2014, "Fast splittable
pseudorandom number generators", Figure 15.
"""

from __future__ import annotations

from itertools import count

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from funcrec.core.errors import ConfigError, fail

_BASIS, _PRIME = 0xCBF29CE484222325, np.uint64(0x100000001B3)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def _mix(h: np.ndarray) -> np.ndarray:
    h = (h ^ (h >> np.uint64(30))) * _MIX[0]
    h = (h ^ (h >> np.uint64(27))) * _MIX[1]
    return h ^ (h >> np.uint64(31))


def hash_texts(texts: pa.StringArray, salt: int = 0) -> np.ndarray:
    """uint64 ``[n]``; a null hashes like the empty text."""
    n = len(texts)
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + n + 1].astype(np.int64)
    letters = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    lengths = np.diff(ends)
    # Longest first: the texts that still have a byte at some position are then a prefix.
    order = np.argsort(-lengths, kind="stable")
    starts, lengths = ends[:-1][order], lengths[order]
    start = np.array([_BASIS], np.uint64) ^ _mix(np.array([salt], np.uint64))
    h = np.repeat(start, n)
    for position in range(int(lengths[0]) if n else 0):
        longer = int(np.searchsorted(-lengths, -position, side="left"))
        h[:longer] = (h[:longer] ^ letters[starts[:longer] + position]) * _PRIME
    out = np.empty(n, np.uint64)
    out[order] = _mix(h)
    return out


class Index:
    """Positions of texts in a fixed list of distinct texts, in time that hardly depends on the list's length.

    Arrow's ``index_in`` builds its table anew for each call, which is dear when a long vocabulary meets many chunks.
    Here the list's hashes are sorted once; a text is looked for by its hash and then compared itself.
    """

    def __init__(self, known: pa.StringArray) -> None:
        if pc.count_distinct(known, mode="only_valid").as_py() != len(known) - known.null_count:
            fail(ConfigError, "vocabulary", got="a token more than once", expected="distinct tokens")
        where = np.flatnonzero(pc.is_valid(known).to_numpy(zero_copy_only=False))
        # With 64 bits the first salt all but always separates the list.
        for salt in count():
            hashes = hash_texts(known.take(pa.array(where)), salt)
            order = np.argsort(hashes, kind="stable")
            hashes = hashes[order]
            if not (hashes[1:] == hashes[:-1]).any():
                break
        self._known, self._salt, self._hashes, self._order = known, salt, hashes, where[order]

    def positions(self, texts: pa.StringArray) -> np.ndarray:
        """int64 ``[n]``, -1 for texts that are not in the list; nulls are not."""
        if len(self._order) == 0:
            return np.full(len(texts), -1)
        slot = np.searchsorted(self._hashes, hash_texts(texts, self._salt))
        candidate = self._order[np.minimum(slot, len(self._order) - 1)]
        same = pc.fill_null(pc.equal(self._known.take(pa.array(candidate)), texts), False)
        return np.where(same.to_numpy(zero_copy_only=False), candidate, -1)
