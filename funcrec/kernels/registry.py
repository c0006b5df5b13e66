"""Which form of a layer runs: the one file of this room that layers import.

A layer asks :func:`use` and calls the op if the answer is yes, its einops form if not. The answer depends on device,
dtype and shape alone, so compiled code holds the decision, not the question; :func:`recording` collects the answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.impl import Impl as Impl
from funcrec.core.impl import check_impl
from funcrec.kernels import cin as cin
from funcrec.kernels import cross as cross
from funcrec.kernels import din as din
from funcrec.kernels import dot as dot
from funcrec.kernels import fm as fm
from funcrec.kernels import lookup as lookup
from funcrec.kernels import rows as rows
from funcrec.kernels import wukong as wukong
from funcrec.kernels.primitive import interpreted

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class Decision(NamedTuple):
    """One answer: what was asked for a layer, on which inputs, what runs and why."""

    layer: str
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    device: str
    impl: str
    why: str


_recorded: list[Decision] | None = None
_pretended: str | None = None


@contextmanager
def recording(device: str | None = None) -> Iterator[list[Decision]]:
    """Collect the decisions of what runs inside, in order; as if tensors were on ``device``, if one is given."""
    global _recorded, _pretended
    before = _recorded, _pretended
    _recorded, _pretended = [], device
    try:
        yield _recorded
    finally:
        _recorded, _pretended = before


def use(
    layer: str, impl: Impl, *tensors: Tensor | None, unsupported: str | None = None, slower: str | None = None
) -> bool:
    """Whether this layer runs its op.

    ``"triton"``: always, on a CPU too, where an op is the einops form behind the same rules of differentiation.
    ``"auto"``: on a CUDA device, for float32, bfloat16 and float16, where the kernels
    take the shape and won the benchmark.

    Args:
        layer: its name, for messages.
        tensors: its inputs and parameters, whose dtypes must agree once autocast, if it is on, has cast them.
        unsupported: why the kernels cannot take these shapes, None if they can.
        slower: why the einops form is the better choice here, which ``"auto"`` then takes.

    Raises:
        ConfigError: ``"triton"`` where the kernels cannot run.
    """
    check_impl(layer, impl)
    given = [t for t in tensors if t is not None]
    where = _pretended or str(given[0].device)
    device, dtypes = where.split(":")[0], {t.dtype for t in cast(*given) if t is not None}
    dtype = next(iter(dtypes))
    why_not = unsupported
    if len(dtypes) > 1:
        why_not = f"dtypes {sorted(str(d) for d in dtypes)} differ"
    elif device != "cpu" and dtype not in DTYPES:
        why_not = f"no kernel for {dtype}"
    elif device not in ("cpu", "cuda", "meta"):
        why_not = f"no kernel for device {device}"
    if impl == "triton" and why_not:
        fail(ConfigError, f"{layer}: impl='triton'", got=why_not, fix="take impl='auto', which falls back")
    if impl == "auto" and why_not is None:
        if device == "cpu" and not interpreted():
            why_not = "on a CPU"
        else:
            why_not = slower
    chosen = impl != "reference" and why_not is None
    if _recorded is not None:
        shapes = tuple(tuple(t.shape) for t in given)
        why = "" if chosen else why_not or "asked for"
        _recorded.append(Decision(layer, shapes, dtype, where, "triton" if chosen else "reference", why))
    return chosen


def without_tf32(x: Tensor) -> str | None:
    """A reason to prefer the einops form: products of x are float32 in full, for which tensor cores are no use."""
    on_gpu = x.is_cuda or (_pretended or "").startswith("cuda")
    (given,) = cast(x)
    if on_gpu and given is not None and given.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32:
        return "float32 without tf32: products on ordinary units, for which cuBLAS is taken"
    return None


def cast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors as autocast hands them to a matrix product: in its dtype where it is on, else untouched."""
    given = [t for t in tensors if t is not None]
    device = given[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)
