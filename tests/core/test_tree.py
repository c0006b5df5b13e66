"""Trees: sorted, and recovered from their paths and leaves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core import tree
from funcrec.core.errors import FuncrecError

names = st.text("abcdefgh_", min_size=1, max_size=4)
nested = st.recursive(
    st.integers(1, 5).map(lambda n: torch.arange(float(n))),
    lambda inner: st.dictionaries(names, inner, min_size=1, max_size=4),
    max_leaves=8,
).filter(lambda x: isinstance(x, dict))


@given(nested)
def test_unflatten_inverts_paths_and_leaves(items):
    t = tree.tree(items)
    back = tree.unflatten(tree.paths(t), tree.leaves(t))
    assert tree.paths(back) == tree.paths(t)
    assert all(a is b for a, b in zip(tree.leaves(back), tree.leaves(t), strict=True))


@given(nested)
def test_keys_are_sorted_at_every_level(items):
    def check(t):
        assert list(t.keys()) == sorted(t.keys())
        for v in t.values():
            if not isinstance(v, torch.Tensor):
                check(v)

    check(tree.tree(items))


@given(nested)
def test_map_and_count(items):
    t = tree.tree(items)
    doubled = tree.map_leaves(lambda x: 2 * x, t)
    assert all(torch.equal(b, 2 * a) for a, b in zip(tree.leaves(t), tree.leaves(doubled), strict=True))
    assert tree.count(t) == sum(x.numel() for x in tree.leaves(t))


def test_stack_adds_a_leading_dim_and_names_what_differs():
    a, b = tree.tree({"w": torch.zeros(3)}), tree.tree({"w": torch.ones(3)})
    assert torch.equal(tree.stack([a, b])["w"], torch.tensor([[0.0] * 3, [1.0] * 3]))
    with pytest.raises(FuncrecError, match=r"tree 1 differs.*'v'"):
        tree.stack([a, tree.tree({"v": torch.ones(3)})])
