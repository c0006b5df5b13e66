"""Replicated weights: the gradient is that of the sum of all ranks' losses, whatever each rank does."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch.func import grad, grad_and_value

from funcrec.core import tree
from funcrec.core.errors import ConfigError, FuncrecError
from funcrec.core.random import fold_in, key, normal
from funcrec.shard.dense import absent, plan_buckets, replicated
from funcrec.shard.share import share

BYTES = st.sampled_from([1, 90, 200, 1 << 20])  # a leaf a bucket, two in between, all together
F64 = torch.float64


def weights(seed: int) -> TensorDict:
    def draw(name: str, *shape: int) -> torch.Tensor:
        return normal(fold_in(key(seed), name), shape, dtype=F64)

    first, second = {"w": draw("0", 3, 4), "b": draw("1", 4)}, {"w": draw("2", 4, 2), "b": draw("3", 2)}
    return tree.tree({"mlp": {"2": first, "10": second}, "odd": draw("4", 4)})


def rows(seed: int, n: int) -> torch.Tensor:
    return normal(fold_in(key(seed), "rows"), (n, 3), dtype=F64)


def loss(p: TensorDict, x: torch.Tensor, used: tuple[int, ...] = (0, 1, 2)) -> torch.Tensor:
    """Sums over rows of a network; without 0, 1 or 2 in ``used`` some weights have no part in it."""
    first, second = p["mlp"]["2"], p["mlp"]["10"]
    hidden = torch.tanh(x @ first["w"] + first["b"]) if 0 in used else x[:, :1].expand(-1, 4)
    y = hidden @ second["w"] + second["b"] if 1 in used else hidden[:, :2]
    return (y**2).sum() + (p["odd"].sin() * hidden).sum() * (2 in used)


def close(got: TensorDict, wanted: TensorDict) -> None:
    assert tree.paths(got) == tree.paths(wanted)
    for name, a, b in zip(tree.paths(got), tree.leaves(got), tree.leaves(wanted), strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-11), f"{name}: got {a}, wanted {b}"


def every(world: int, seed: int) -> list[torch.Tensor]:
    return [rows(seed + r, 2 + r) for r in range(world)]


def first_order(rank, world, group, seed, sizes, used, bucket_bytes):
    p, batches = weights(seed), [rows(seed + r, n) for r, n in enumerate(sizes)]
    n = max(1, sum(sizes))

    def mine(p, x):
        return (loss(p, x, used[rank]) / n if used[rank] else torch.ones((), dtype=F64)), x + 1

    f = replicated(mine, group, bucket_bytes=bucket_bytes)
    (d, d_x), (value, aux) = grad_and_value(f, argnums=(0, 1), has_aux=True)(p, batches[rank])
    assert torch.equal(value, mine(p, batches[rank])[0])
    assert torch.equal(aux, batches[rank] + 1)

    def whole(p):
        return sum((loss(p, x, u) / n for x, u in zip(batches, used, strict=True) if u), 0 * p["odd"][0])

    close(d, grad(whole)(p))
    if used[rank]:
        torch.testing.assert_close(d_x, grad(mine, argnums=1, has_aux=True)(p, batches[rank])[0])
    return d


PARTS = st.sampled_from([(), (0,), (1,), (2,), (0, 2), (0, 1, 2)])


@given(st.data(), st.integers(1, 3), st.integers(0, 999), BYTES)
def test_gradient_is_the_sum_whatever_weights_a_rank_uses(ranks, data, world, seed, bucket_bytes):
    """Ranks of unequal rows, down to none; each uses some weights, all or none, and all of them get one answer."""
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=world, max_size=world))
    used = data.draw(st.lists(PARTS, min_size=world, max_size=world))
    if world == 1 and not used[0]:
        return  # a constant: torch leaves zeros for it, ours is not asked
    results = ranks.run(world, first_order, seed, sizes, used, bucket_bytes)
    assert all(torch.equal(a, b) for d in results for a, b in zip(tree.leaves(d), tree.leaves(results[0]), strict=True))


def mean_of_shares(rank, world, group, seed, sizes):
    p, batches = weights(seed), [rows(seed + r, n) for r, n in enumerate(sizes)]

    def mean(p, x):
        return loss(p, x) / max(1, len(x))

    def mine(p, x):
        return mean(p, x) * share(len(x), group).to(x.dtype)

    close(grad(replicated(mine, group))(p, batches[rank]), grad(mean)(p, torch.cat(batches)))


@settings(max_examples=10)
@given(st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any), st.integers(0, 999))
def test_shares_of_uneven_rows_make_the_gradient_of_the_global_mean(ranks, sizes, seed):
    ranks.run(3, mean_of_shares, seed, sizes)


def unrelated_to_buckets(rank, world, group, sizes):
    p, x = weights(1), every(world, 1)[rank]
    found = [grad(replicated(loss, group, bucket_bytes=n))(p, x) for n in sizes]
    for d in found[1:]:
        assert world != 2 or all(map(torch.equal, tree.leaves(d), tree.leaves(found[0])))
        close(d, found[0])


@pytest.mark.parametrize("world", [2, 3])
def test_the_size_of_buckets_changes_nothing(ranks, world):
    ranks.run(world, unrelated_to_buckets, [1, 90, 200, 1 << 20])


def nothing_to_do(rank, world, group, bucket_bytes):
    p, x = weights(1), every(world, 3)[0]
    if rank == 1:
        d = grad(replicated(loss, group, bucket_bytes=bucket_bytes))(p, x)
    else:
        d = absent(p, group, bucket_bytes=bucket_bytes)
    close(d, grad(loss)(p, x))


@pytest.mark.parametrize("bucket_bytes", [90, 1 << 20])
def test_absent_ranks_take_part(ranks, bucket_bytes):
    ranks.run(3, nothing_to_do, bucket_bytes)


def test_one_process_alone_runs_the_function_itself():
    assert replicated(loss) is loss
    assert not dist.is_initialized()
    p = weights(1)
    close(absent(p), tree.map_leaves(torch.zeros_like, p))


LEAVES = st.lists(st.tuples(st.integers(0, 40), st.sampled_from([torch.float32, F64])), max_size=12)


@given(LEAVES, st.integers(1, 400))
def test_buckets_share_out_the_leaves(sizes, bucket_bytes):
    p = tree.tree({str(i): torch.zeros(n, dtype=d) for i, (n, d) in enumerate(sizes)})
    leaves, buckets = tree.leaves(p), plan_buckets(p, bucket_bytes)
    assert sorted(i for b in buckets for i in b) == list(range(len(leaves)))
    names = tree.paths(p)
    for b in buckets:
        assert len({leaves[i].dtype for i in b}) == 1
        assert len(b) == 1 or sum(leaves[i].numel() * leaves[i].element_size() for i in b) <= bucket_bytes
        assert [int(names[i]) for i in b] == sorted((int(names[i]) for i in b), reverse=True)


def test_later_layers_come_first():
    names = tree.paths(p := weights(1))
    order = [names[i] for b in plan_buckets(p, 1) for i in b]
    assert order == ["odd", "mlp.10.w", "mlp.10.b", "mlp.2.w", "mlp.2.b"]


def refused(rank, world, group):
    with pytest.raises(FuncrecError, match="params: got no leaf"):
        replicated(loss, group)(tree.tree(), rows(1, 1))
    with pytest.raises(FuncrecError, match="the loss: got float"):
        replicated(lambda p: 1.0, group)(weights(1))


def test_errors(ranks):
    with pytest.raises(ConfigError, match="bucket_bytes: got 0"):
        replicated(loss, bucket_bytes=0)
    ranks.run(2, refused)
