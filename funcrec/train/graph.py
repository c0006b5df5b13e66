"""A pure function of tensors as a CUDA graph: captured once, then replayed by one launch of the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core import tree
from funcrec.core.errors import ConfigError, fail

WARMUP = 3  # calls before the capture: they compile, tune and fill caches, none of which a graph may record


class Captured(NamedTuple):
    """A graph and the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: Any


def leaves_of(args: Sequence[Tensor | TensorDict]) -> list[Tensor]:
    """The tensors of all arguments, in order."""
    return [leaf for x in args for leaf in ([x] if isinstance(x, Tensor) else tree.leaves(x))]


def refill(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy ``sources`` into ``targets``, one launch for all of a dtype that are laid out alike."""
    alike: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        if target.stride() == source.stride():
            group = alike.setdefault(target.dtype, ([], []))
            group[0].append(target)
            group[1].append(source)
        else:
            target.copy_(source)
    for into, of in alike.values():
        torch._foreach_copy_(into, of)


def _capture(f: Callable[..., Any], args: Sequence[Tensor | TensorDict]) -> Captured:
    held = [x.clone() for x in args]
    inputs = leaves_of(held)
    with torch.cuda.device(inputs[0].device):
        # On a stream of its own, as the capture will be: torch asks for it where autograd is involved.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP):
                f(*held)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: a thread that pins the next batches meanwhile must not spoil the capture.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            outputs = f(*held)
    return Captured(graph, inputs, outputs)


def captured(f: Callable[..., Any]) -> Callable[..., Any]:
    """``f``, replayed from a CUDA graph for the shapes of its first call, and called as it is for any other.

    ``f`` must be a pure function of tensors and TensorDicts that neither asks the host nor copies from it: the
    ``grad_and_value`` of a model is one, compiled or not. (SENet, variational dropout and multi-window DIN copy
    constants from the host: their capture fails with CUDA's error.) Every argument is copied into memory of the graph's
    own before a replay, weights included, so it may be called with any values at any address: two train states in
    turn, or weights from a checkpoint.

    The outputs are that memory itself: **the next call overwrites them**. Use them up first, or ``clone`` them.
    ``torch.compile(mode="reduce-overhead")`` also copies its inputs, keeps a graph for every new shape, and guards its
    outputs by rules of its own; here who copies what can be read.

    Raises:
        ConfigError: an argument is not on a CUDA device.
    """
    held: list[Captured] = []

    def call(*args: Tensor | TensorDict) -> Any:
        leaves = leaves_of(args)
        if not held:
            elsewhere = sorted({x.device.type for x in leaves} - {"cuda"})
            if elsewhere:
                fix = "init the step with a key on the GPU, or leave cuda_graph off"
                fail(ConfigError, "cuda_graph: a tensor's device", got=elsewhere, expected="cuda", fix=fix)
            held.append(_capture(f, args))
        graph, inputs, outputs = held[0]
        if [(x.shape, x.dtype) for x in leaves] != [(x.shape, x.dtype) for x in inputs]:
            return f(*args)
        refill(inputs, leaves)
        graph.replay()
        return outputs

    return call
