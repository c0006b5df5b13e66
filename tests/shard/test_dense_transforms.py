"""Replicated weights under higher derivatives, ``vmap`` and compilation, and sums that go on beside backward."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.autograd import Function
from torch.func import grad, grad_and_value, jvp, vmap

from funcrec.core import tree
from funcrec.shard.dense import replicated
from tests.shard.test_dense import close, every, loss, rows, weights


def dot(a: TensorDict, b: TensorDict) -> torch.Tensor:
    return torch.stack([(s * t).sum() for s, t in zip(tree.leaves(a), tree.leaves(b), strict=True)]).sum()


def higher_orders(rank, world, group, bucket_bytes):
    p, v, batches = weights(1), weights(2), every(world, 3)
    f = replicated(loss, group, bucket_bytes=bucket_bytes)

    def mine(p):
        return f(p, batches[rank])

    def whole(p):
        return torch.stack([loss(p, x) for x in batches]).sum()

    def twice(h):
        return grad(lambda p: dot(grad(h)(p), v))

    def thrice(h):
        return grad(lambda p: dot(twice(h)(p), v))

    def forward(h):
        return lambda p: jvp(grad(h), (p,), (v,))[1]

    for order in (grad, twice, thrice, forward):
        close(order(mine)(p), order(whole)(p))
    close(jvp_gradients(mine, p, v), jvp_gradients(whole, p, v))
    members = tree.stack([p, v, weights(3)])
    close(vmap(grad(mine))(members), vmap(grad(whole))(members))
    assert torch._C._distributed_c10d._get_work_registry_size() == 0


def jvp_gradients(h, p, v):
    """The gradient of a directional derivative: reverse over forward."""
    return grad(lambda p: jvp(h, (p,), (v,))[1])(p)


@pytest.mark.parametrize("bucket_bytes", [1, 90, 1 << 20])
def test_derivatives_of_higher_order_and_ensembles(ranks, bucket_bytes):
    ranks.run(2, higher_orders, bucket_bytes)


def compiled(rank, world, group, backend, bucket_bytes):
    p, batches = weights(1), every(world, 3)
    wanted = grad(lambda p: torch.stack([loss(p, x, (0, 2)) for x in batches]).sum())(p)
    gradient = grad_and_value(replicated(loss, group, bucket_bytes=bucket_bytes))
    # The last rank runs eagerly: it must start the same sums in the same order. Second weights are unused.
    fast = torch.compile(gradient, fullgraph=True, backend=backend) if rank < world - 1 else gradient
    for _ in range(2):
        d, value = fast(p, batches[rank], (0, 2))
        close(d, wanted)
        torch.testing.assert_close(value, loss(p, batches[rank], (0, 2)))
    assert torch._C._distributed_c10d._get_work_registry_size() == 0
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_ranks_beside_an_eager_one(ranks, backend):
    ranks.run(2, compiled, backend, 90)


class Seen:
    """How many sums were under way, each time that Watch looked. Not a list, which functorch would copy."""

    def __init__(self) -> None:
        self.counts: list[int] = []


class Watch(Function):
    """The identity; backward: notes how many sums are under way."""

    @staticmethod
    def forward(x, seen):
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.seen = inputs[1]

    @staticmethod
    def backward(ctx, d):
        ctx.seen.counts.append(torch._C._distributed_c10d._get_work_registry_size())
        return d, None


def layers(p, x, watch=lambda hidden: hidden):
    first, second = p["mlp"]["2"], p["mlp"]["10"]
    hidden = watch(torch.tanh(x @ first["w"] + first["b"]))
    return (hidden @ second["w"] + second["b"]).square().sum() + p["odd"].sum()


SECOND_LAYER = 8 * (8 + 2)  # bytes; "odd" is in a bucket of its own, then comes that of this layer


def overlapped(rank, world, group, transform):
    p, x, seen = weights(1), rows(1, 3), Seen()
    f = replicated(lambda p: layers(p, x, lambda hidden: Watch.apply(hidden, seen)), group, bucket_bytes=SECOND_LAYER)
    if transform:
        grad(f)(p)
    else:
        f(p.requires_grad_()).backward()
    assert seen.counts == [2]
    assert torch._C._distributed_c10d._get_work_registry_size() == 0


@pytest.mark.parametrize("transform", [False, True])
def test_sums_start_while_backward_goes_on(ranks, transform):
    """Those of the second layer, before the first is differentiated."""
    ranks.run(2, overlapped, transform)


def traced(rank, world, group):
    names: list[str] = []

    def note(graph, example):
        names.extend(node.target.__name__ if node.op == "call_function" else node.op for node in graph.graph.nodes)
        return make_boxed_func(graph.forward)

    f = grad(replicated(layers, group, bucket_bytes=SECOND_LAYER))
    d = torch.compile(f, fullgraph=True, backend=aot_autograd(fw_compiler=note))(weights(1), rows(1, 3))
    close(d, tree.map_leaves(lambda x: world * x, grad(layers)(weights(1), rows(1, 3))))
    torch._dynamo.reset()
    return [n.split(".")[0] for n in names if n.split(".")[0] in ("mm", "tanh_backward", "all_reduce", "wait_tensor")]


def test_compiled_sums_start_while_backward_goes_on(ranks):
    for names in ranks.run(2, traced):
        backward = names.index("tanh_backward")
        assert names[:backward].count("all_reduce") == 2
        assert names[backward:].count("mm") == 1
        last = len(names) - 1 - names[::-1].index("all_reduce")
        assert last < names.index("wait_tensor")
        assert names.count("wait_tensor") == names.count("all_reduce")
