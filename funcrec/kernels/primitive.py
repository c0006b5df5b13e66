"""The mechanism: a family of kernels becomes ops that every transform of torch goes through.

An op has a reference, plain torch in einops form, which is the truth, and a Triton kernel that computes the same. Rules
say what its derivatives are, in terms of ops again: where a family is *closed under differentiation*, as bilinear forms
and their adjoints are, a few kernels serve derivatives of every order, forward and reverse.

Each op is registered by hand with a ``torch.library.Library``:

==================  ================================================================================================
dispatch key        what is there
==================  ================================================================================================
CPU                 the reference; the kernel in Triton's interpreter if TRITON_INTERPRET=1 (tests)
CUDA                the kernel, imported at the first call
Meta, fake          the reference: shapes, dtypes and devices follow from it
FuncTorchBatched    rows of samples take the mapped dim in; anything else is the reference under vmap
Autograd            a ``_SingleLevelFunction`` with the rules
==================  ================================================================================================

``custom_op`` with ``register_autograd`` would refuse ``torch.func.grad`` and drop forward tangents without a word. Here
dynamo sees an opaque op, and functorch calls the Autograd kernel at each of its levels. This file alone uses private
names of torch; the tests of all transforms guard it.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._functorch.autograd_function import custom_function_call_vmap_helper, enable_single_level_autograd_function
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter
from torch._functorch.vmap import unwrap_batched
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

Args = Sequence[Any]
Op = Callable[..., Any]
Vjp = Callable[[Args, Sequence[Tensor], Sequence[bool]], Sequence[Tensor | None]]
Jvp = Callable[[Args, Sequence[Tensor | None]], Tensor | tuple[Tensor, ...]]

_LIBRARY = torch.library.Library("funcrec", "DEF")  # lives as long as the process
_NAMES: list[str] = []


def names() -> tuple[str, ...]:
    """The names of all ops."""
    return tuple(_NAMES)


def interpreted() -> bool:
    """Whether Triton kernels run in its interpreter, on the CPU: slow, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def _contiguous(out: Any) -> Any:
    return tuple(o.contiguous() for o in out) if isinstance(out, tuple) else out.contiguous()


def _described(args: Args) -> str:
    return ", ".join(f"{tuple(a.shape)} {a.dtype}" if isinstance(a, Tensor) else str(a) for a in args)


def _launcher(kernel: str) -> Callable[..., Any]:
    """The function behind ``"file:function"`` of ``funcrec.kernels.gpu``, which imports Triton."""
    module, function = kernel.split(":")
    return getattr(importlib.import_module(f"funcrec.kernels.gpu.{module}"), function)


def primitive(
    schema: str,
    reference: Callable[..., Any],
    kernel: str,
    *,
    vjp: Vjp | None = None,
    jvp: Jvp | None = None,
    rows: Sequence[int] = (),
) -> Op:
    """Register an op and return it.

    Args:
        schema: name, arguments and results in torch's notation: ``"pair(Tensor x, Tensor y) -> Tensor"``.
        reference: the einops form of the same arguments; must itself go through every transform, and use none inside.
        kernel: ``"file:function"`` in ``funcrec.kernels.gpu``, called with the same arguments; returns contiguous
            tensors of the reference's shapes and dtypes.
        vjp: ``(args, cotangents, needs) -> gradients``, one an argument, None where not needed. None: the reference's.
        jvp: ``(args, tangents) -> tangents of the results``, tangents None where there is none. None: an
            argument with a tangent goes to the reference.
        rows: positions of the arguments whose dim 0 is the batch, if all results have it as their dim 0 too: a mapped
            dim of these is merged into the batch. Where another argument is mapped, the reference is.
    """
    name = schema.split("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    op = getattr(torch.ops.funcrec, name).default
    _NAMES.append(name)

    def on_cpu(*args: Any) -> Any:
        wide = any(isinstance(a, Tensor) and a.dtype == torch.float64 for a in args)
        return _launcher(kernel)(*args) if interpreted() and not wide else _contiguous(reference(*args))

    def on_cuda(*args: Any) -> Any:
        device = next(a.device for a in args if isinstance(a, Tensor))
        elsewhere = device.index != torch.cuda.current_device()
        with torch.cuda.device(device) if elsewhere else nullcontext():
            try:
                return _launcher(kernel)(*args)
            except Exception as e:
                if type(e).__name__ != "OutOfResources":  # a class of Triton's, which is not imported here
                    raise
                warnings.warn(f"{name}: no room on this GPU for {_described(args)}; the einops form runs", stacklevel=2)
                return _contiguous(reference(*args))

    _LIBRARY.impl(name, on_cpu, "CPU")
    _LIBRARY.impl(name, on_cuda, "CUDA")
    torch.library.register_fake(f"funcrec::{name}", lambda *args: _contiguous(reference(*args)), lib=_LIBRARY)
    _LIBRARY.impl(name, _batching(op, reference, tuple(rows)), "FuncTorchBatched", with_keyset=True)
    _LIBRARY.impl(name, _differentiable(name, op, reference, vjp or vjp_of(reference), jvp), "Autograd")
    return op


def _batching(op: Callable[..., Any], reference: Callable[..., Any], rows: tuple[int, ...]) -> Callable[..., Any]:
    """What stands at the FuncTorchBatched key."""

    def fold(info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Any, Any]:
        n, folded, batch = info.batch_size, list(args), 0
        for i in rows:
            if isinstance(args[i], Tensor):
                at = in_dims[i]
                t = args[i].unsqueeze(0).expand(n, *args[i].shape) if at is None else args[i].movedim(at, 0)
                batch = t.shape[1]
                folded[i] = t.reshape(n * batch, *t.shape[2:])
        out = op(*folded)
        if isinstance(out, tuple | list):
            return tuple(o.reshape(n, batch, *o.shape[1:]) for o in out), (0,) * len(out)
        return out.reshape(n, batch, *out.shape[1:]), 0

    def rule(keyset: Any, *args: Any) -> Any:
        del keyset
        interpreter = retrieve_current_functorch_interpreter()
        _, in_dims = unwrap_batched(args, interpreter.level())
        mapped = {i for i, d in enumerate(in_dims) if d is not None}
        if not mapped <= set(rows):
            return reference(*args)  # of mapped tensors: each operation of it meets its own batching rule
        return custom_function_call_vmap_helper(interpreter, fold, op, *args)  # type: ignore[arg-type]

    return rule


def _differentiable(
    name: str, op: Callable[..., Any], reference: Callable[..., Any], vjp: Vjp, jvp: Jvp | None
) -> Callable[..., Any]:
    """What stands at the Autograd key."""

    class Function(_SingleLevelFunction):  # one level of functorch; autograd.Function would ask for the whole stack
        @staticmethod
        def forward(*args: Any) -> Any:
            # forward runs with both modes of differentiation off, but the levels below need them: without these lines
            # every second derivative is 0.
            below = torch._C._AutoDispatchBelowAutograd()
            with torch.enable_grad(), _set_fwd_grad_enabled(True), below:
                return op(*args)

        @staticmethod
        def setup_context(ctx: Any, inputs: Args, output: Any) -> None:
            tensors = [a for a in inputs if isinstance(a, Tensor)]
            ctx.rest = [None if isinstance(a, Tensor) else a for a in inputs]
            ctx.places = [i for i, a in enumerate(inputs) if isinstance(a, Tensor)]
            ctx.save_for_backward(*tensors)
            ctx.save_for_forward(*tensors)

        @staticmethod
        def backward(ctx: Any, *cotangents: Tensor) -> Any:
            return tuple(vjp(_args(ctx), cotangents, ctx.needs_input_grad))

        @staticmethod
        def jvp(ctx: Any, *tangents: Any) -> Any:
            assert jvp is not None  # else the reference was called in place of this function
            return jvp(_args(ctx), tangents)

    Function.__name__ = Function.__qualname__ = name

    def autograd(*args: Any) -> Any:
        tensors = [a for a in args if isinstance(a, Tensor)]
        tangents = any(_has_tangent(t) for t in tensors)
        if jvp is None and tangents:
            return _contiguous(reference(*args))
        if not tangents and not any(t.requires_grad for t in tensors):
            with torch._C._AutoDispatchBelowAutograd():  # nothing to record: compiled code always comes here
                return op(*args)
        with enable_single_level_autograd_function():
            return Function.apply(*args)  # type: ignore[attr-defined]

    return autograd


def _args(ctx: Any) -> list[Any]:
    args = list(ctx.rest)
    for i, t in zip(ctx.places, ctx.saved_tensors, strict=True):
        args[i] = t
    return args


def _partial(reference: Callable[..., Any], args: Args, at: Sequence[int]) -> Callable[..., Any]:
    """``reference`` as a function of the arguments at these positions."""

    def f(*values: Tensor) -> Any:
        whole = list(args)
        for i, v in zip(at, values, strict=True):
            whole[i] = v
        return reference(*whole)

    return f


def vjp_of(reference: Callable[..., Any]) -> Vjp:
    """The reverse rule of an op that no op of its family differentiates: that of the reference."""

    def rule(args: Args, cotangents: Sequence[Tensor], needs: Sequence[bool]) -> Sequence[Tensor | None]:
        at = [i for i, need in enumerate(needs) if need]
        out, pull = torch.func.vjp(_partial(reference, args, at), *(args[i] for i in at))[:2]
        gradients = dict(zip(at, pull(tuple(cotangents) if isinstance(out, tuple) else cotangents[0]), strict=True))
        return [gradients.get(i) for i in range(len(args))]

    return rule


def linear_jvp(op: Callable[[], Callable[..., Any]], linear: Sequence[int]) -> Jvp:
    """The forward rule of an op that is linear in each of the arguments ``linear``: ``Σ_i op(…, ẋ_i, …)``.

    ``op`` is a function that returns the op: a rule is written before the op it belongs to exists.
    """

    def rule(args: Args, tangents: Sequence[Tensor | None]) -> Any:
        total: Any = None
        for i in linear:
            if (t := tangents[i]) is not None:
                part = op()(*args[:i], t, *args[i + 1 :])
                total = part if total is None else total + part
        return total

    return rule


def _has_tangent(x: Tensor) -> bool:
    # forward_ad.unpack_dual asks a Python variable for the level, which compiled code does not set; there is one level
    return torch._VF._unpack_dual(x, level=0)[1] is not None
