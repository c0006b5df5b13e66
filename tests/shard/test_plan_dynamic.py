"""The choice by dynamic programming against all choices there are."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError
from funcrec.shard.dynamic import choose, frontier

whole = st.integers(0, 12)
problems = st.lists(st.lists(st.tuples(whole, st.integers(0, 9)), min_size=1, max_size=4), min_size=1, max_size=5)
real = st.floats(0, 100, allow_subnormal=False)
real_problems = st.lists(st.lists(st.tuples(real, real), min_size=1, max_size=4), min_size=1, max_size=5)


def sums(options, choice):
    picked = [o[c] for o, c in zip(options, choice, strict=True)]
    return sum(b for b, _ in picked), sum(t for _, t in picked)


def fastest(options, capacity):
    """The least time of all choices within the capacity; None: there is none."""
    every = (sums(options, c) for c in itertools.product(*(range(len(o)) for o in options)))
    return min((t for b, t in every if b <= capacity), default=None)


def room(options, capacity):
    return capacity - sum(min(b for b, _ in o) for o in options)


@given(problems, st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_it_is_optimal_where_bytes_are_multiples_of_a_bin(options, capacity):
    best = fastest(options, capacity)
    choice = choose(options, capacity, bins=max(1, room(options, capacity)))
    assert (choice is None) == (best is None)
    if choice is not None:
        assert sums(options, choice)[0] <= capacity
        assert sums(options, choice)[1] == best


@given(real_problems, st.floats(0, 300), st.integers(1, 40))
@settings(max_examples=300, deadline=None)
def test_it_fits_and_is_no_slower_than_the_optimum_of_one_bin_a_table_less(options, capacity, bins):
    choice = choose(options, capacity, bins)
    assert (choice is None) == (room(options, capacity) < 0)
    if choice is None:
        return
    size, time = sums(options, choice)
    assert size <= capacity * (1 + 1e-12)
    less = capacity - len(options) * room(options, capacity) / bins
    if (bound := fastest(options, less)) is not None:
        assert time <= bound * (1 + 1e-12)


@given(real_problems, st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_the_fastest_options_are_taken_where_they_fit_together_whatever_the_bins(options, bins):
    capacity = 1.001 * sum(max(b for b, _ in o) for o in options) + 1
    choice = choose(options, capacity, bins)
    assert sums(options, choice)[1] == pytest.approx(sum(min(t for _, t in o) for o in options), rel=1e-12)


@given(real_problems, st.floats(0, 300))
@settings(max_examples=100, deadline=None)
def test_the_frontier_trades_memory_for_time_and_its_sums_are_those_of_its_choices(options, capacity):
    made = frontier(options, capacity, 50)
    if made is None:
        return
    assert (np.diff(made.bytes) > 0).all()
    assert (np.diff(made.time) < 0).all()
    for i in range(len(made.bytes)):
        assert (made.bytes[i], made.time[i]) == pytest.approx(sums(options, made.pick(i)), rel=1e-9, abs=1e-9)


def test_what_is_no_problem_is_refused():
    with pytest.raises(ConfigError, match=r"table 1.*\[\]"):
        choose([[(1, 1)], []], 5)
    with pytest.raises(ConfigError, match="table 0"):
        choose([[(float("nan"), 1)]], 5)
    with pytest.raises(ConfigError, match="bins"):
        choose([[(1, 1)]], 5, bins=0)
