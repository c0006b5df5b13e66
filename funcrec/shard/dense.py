"""Dense weights of which every rank has a copy: a pure function whose gradient is summed over the ranks.

Two maps are each other's derivative: R is the identity forward and sums over ranks backward, S sums forward and is the
identity backward (Shoeybi et al. 2019, "Megatron-LM", section 3, the operators f and g). Weights enter the loss
through R; its backward is S, so that derivatives of every order are those of the sum of all ranks' losses.

The sum is an all-reduce for each bucket of weights, started when the gradients of the bucket are there and waited for
at the end of backward, which goes on meanwhile. The parts of the graph, from the weights to the loss::

    weights ──> _Collect ──token──> _Bucket n-1 ──link──> … ──link──> _Bucket 0 ──link──> _Tie ──> loss
                                        └── weights of bucket n-1 ──> f ──────────────────────┘

Backward, a bucket starts its all-reduce and hands the flat, unfinished sum to ``_Collect`` as the gradient of its
token, along an edge that carries nothing else: no operation can read the sum too early. The links hold the order. A
bucket cannot start before the one behind it has, the first is reached from the loss itself, and so every rank issues
the same collectives in the same order: whatever its loss does or does not use, in eager mode and compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor
from torch.autograd import Function
from torch.func import grad

from funcrec.core import tree
from funcrec.core.errors import ConfigError, FuncrecError, fail
from funcrec.shard.group import world_size
from funcrec.shard.reduce import Start, Wait

BUCKET_BYTES = 25 << 20
FIRST = 1 << 62  # a sequence number that no node reaches
Buckets = tuple[tuple[int, ...], ...]


class _Collect(Function):
    """A link and a token for each bucket, both zeros; backward: waits for the sums and cuts them into gradients."""

    generate_vmap_rule = True

    @staticmethod
    def forward(buckets: Buckets, *leaves: Tensor) -> tuple[Tensor, ...]:
        # One zero each, expanded: tokens take no memory.
        tokens = [leaves[b[0]].new_zeros(()).expand(sum(leaves[i].numel() for i in b)) for b in buckets]
        return (leaves[0].new_zeros(()), *tokens)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.buckets, ctx.shapes = inputs[0], [x.shape for x in inputs[1:]]

    @staticmethod
    def backward(ctx: Any, d_link: Tensor, *flats: Tensor) -> tuple:
        gradients: dict[int, Tensor] = {}
        for bucket, flat in zip(ctx.buckets, flats, strict=True):
            shapes = [ctx.shapes[i] for i in bucket]
            parts = Wait.apply(flat).split([s.numel() for s in shapes])
            gradients |= {i: part.view(s) for i, part, s in zip(bucket, parts, shapes, strict=True)}
        return (None, *(gradients[i] for i in range(len(ctx.shapes))))

    @staticmethod
    def jvp(ctx: Any, buckets: None, *leaves: Tensor) -> tuple[Tensor, ...]:
        return _Collect.forward(ctx.buckets, *leaves)


class _Bucket(Function):
    """R of the weights of one bucket; backward: starts their sum."""

    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, token: Tensor, link: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        return (link.clone(), *(x.view_as(x) for x in leaves))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.group = inputs[0]
        # Of the nodes that are ready, backward takes the youngest first. This one is older than all of f's.
        ctx._set_sequence_nr(FIRST)

    @staticmethod
    def backward(ctx: Any, d_link: Tensor, *d_leaves: Tensor) -> tuple:
        flat = torch.cat([d.reshape(-1) for d in d_leaves])  # a leaf without gradient comes as zeros
        return (None, Start.apply(flat, ctx.group), d_link, *(None for _ in d_leaves))

    @staticmethod
    def jvp(ctx: Any, name: None, token: Tensor, link: Tensor, *leaves: Tensor) -> tuple:
        return (link.clone(), *(x.view_as(x) for x in leaves))


class _Tie(Function):
    """The loss as it is; backward: reaches the links first."""

    generate_vmap_rule = True

    @staticmethod
    def forward(loss: Tensor, link: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.link = inputs[1].shape

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor, Tensor]:
        return d, d.new_zeros(ctx.link)

    @staticmethod
    def jvp(ctx: Any, loss: Tensor, link: Tensor) -> Tensor:
        return loss.clone()


# Dynamo need not look inside: functorch and the backends take autograd functions as they are.
@torch.compiler.allow_in_graph
def _enter(buckets: Buckets, name: str, *leaves: Tensor) -> tuple[Tensor, ...]:
    """The last link, and the leaves behind their buckets."""
    link, *tokens = _Collect.apply(buckets, *leaves)
    entered: dict[int, Tensor] = {}
    for bucket, token in zip(reversed(buckets), reversed(tokens), strict=True):
        link, *own = _Bucket.apply(name, token, link, *(leaves[i] for i in bucket))
        entered |= zip(bucket, own, strict=True)
    return (link, *(entered[i] for i in range(len(leaves))))


@torch.compiler.allow_in_graph
def _leave(loss: Tensor, link: Tensor) -> Tensor:
    return _Tie.apply(loss, link)


def _natural(path: str) -> list[tuple[int, str]]:
    """A key that sorts ``mlp.10`` behind ``mlp.9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def plan_buckets(params: TensorDict, bucket_bytes: int = BUCKET_BYTES) -> Buckets:
    """Indices into ``tree.leaves(params)`` by bucket, in the order of their all-reduces.

    From the last path to the first, as gradients come in a model whose paths are in the order of their use; a bucket
    has leaves of one dtype and device, and at most ``bucket_bytes`` unless it is a single leaf.
    """
    leaves, names = tree.leaves(params), tree.paths(params)
    buckets: list[list[int]] = []
    room: dict[tuple[torch.dtype, torch.device], tuple[list[int], int]] = {}
    for i in sorted(range(len(leaves)), key=lambda i: _natural(names[i]), reverse=True):
        kind, size = (leaves[i].dtype, leaves[i].device), leaves[i].numel() * leaves[i].element_size()
        bucket, used = room.get(kind, ([], 0))
        if not bucket or used + size > bucket_bytes:
            bucket, used = [], 0
            buckets.append(bucket)
        bucket.append(i)
        room[kind] = (bucket, used + size)
    return tuple(map(tuple, buckets))


def replicated(
    f: Callable[..., Any], group: dist.ProcessGroup | None = None, *, bucket_bytes: int = BUCKET_BYTES
) -> Callable[..., Any]:
    """``f`` as it is, with a gradient in its first argument that is the sum of all ranks' gradients.

    ``f(params, *args)`` is a loss, or a tuple of a loss and more that is handed through. So that the sum is the
    gradient of the mean over the global batch, each rank's ``f`` multiplies its mean by its share of that batch
    (:func:`funcrec.shard.share.share`). Gradients in other arguments remain this rank's own.

    A rank with nothing to do must take part: :func:`absent`, once for each gradient that the others take.

    Args:
        f: any function of a TensorDict of floats, whatever it does with it: collectives do not depend on it.
        group: the ranks; None: all of them, or this process alone where torch.distributed is not initialized.
        bucket_bytes: bytes that are reduced together. Larger ones cost less, smaller ones start earlier. The sums of
            two ranks are the same bit for bit, those of more up to rounding.

    Raises:
        ConfigError: ``bucket_bytes`` below 1.
        FuncrecError: in the call, params without a leaf, or a loss that is no tensor.
    """
    if bucket_bytes < 1:
        fail(ConfigError, "replicated: bucket_bytes", got=bucket_bytes, expected="at least 1")
    if world_size(group) == 1:
        return f
    ranks = group or dist.group.WORLD
    assert ranks is not None
    name = ranks.group_name

    def with_sum(params: TensorDict, *args: Any, **kwargs: Any) -> Any:
        if not tree.leaves(params):
            fail(FuncrecError, "replicated: params", got="no leaf", expected="a TensorDict of floats")
        link, *entered = _enter(plan_buckets(params, bucket_bytes), name, *tree.leaves(params))
        out = f(_like(params, iter(entered)), *args, **kwargs)
        loss, *more = out if isinstance(out, tuple) else (out,)
        if not isinstance(loss, Tensor):
            fail(FuncrecError, "replicated: the loss", got=type(loss).__name__, expected="a tensor")
        loss = _leave(loss, link)
        return (loss, *more) if isinstance(out, tuple) else loss

    return with_sum


def _like(params: TensorDict, leaves: Any) -> TensorDict:
    """The tree of ``params`` with other leaves, in their order."""
    return tree.map_leaves(lambda _: next(leaves), params)


def absent(
    params: TensorDict, group: dist.ProcessGroup | None = None, *, bucket_bytes: int = BUCKET_BYTES
) -> TensorDict:
    """What ``grad(replicated(f))`` returns on a rank whose own gradient is zero: the sum of the others'.

    Issues the collectives of ``replicated`` for the same ``params``, ``group`` and ``bucket_bytes``.
    """
    device = tree.leaves(params)[0].device if tree.leaves(params) else None
    return grad(replicated(lambda _: torch.zeros((), device=device), group, bucket_bytes=bucket_bytes))(params)
