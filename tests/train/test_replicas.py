"""Shares and keys of processes that take one step together."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core.random import key
from funcrec.core.replicas import alone
from funcrec.train.replicas import own_key, shares
from tests.train.tiny import data


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=4), st.booleans())
def test_shares_of_all_processes_sum_to_one_and_follow_the_rows(sizes, weighted) -> None:
    batches = [[data(n, seed=n, weighted=weighted) if n else None for n in own] for own in sizes]
    weight = lambda b: 0.0 if b is None else float(b.features["weight"].sum()) if weighted else len(b)  # noqa: E731
    whole = sum(weight(b) for own in batches for b in own)
    of = [alone()._replace(rank=r, world=2, total=lambda _: [whole]) for r in range(len(sizes))]
    found = [shares(own, replicas) for own, replicas in zip(batches, of, strict=True)]
    assert sum(map(sum, found)) == pytest.approx(1.0 if whole else 0.0)
    for own, parts in zip(batches, found, strict=True):
        assert parts == pytest.approx([weight(b) / (whole or 1.0) for b in own])


def test_each_process_has_a_key_of_its_own_and_the_first_the_given_one() -> None:
    keys = [own_key(key(3), alone()._replace(rank=r)) for r in range(4)]
    assert torch.equal(keys[0], key(3))
    assert len({int(k) for k in keys}) == 4
