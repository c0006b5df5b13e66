"""What every launch decides alike: block sizes, the precision of products, what the interpreter needs."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from funcrec.kernels.primitive import interpreted


def block(n: int, least: int = 16) -> int:
    """The smallest power of two that holds ``n``, and that a matrix product takes."""
    return max(least, triton.next_power_of_2(n))


def precision(x: Tensor) -> str:
    """``input_precision`` of a product: tf32 for float32 where torch's flags allow it to cuBLAS, else ieee."""
    return "tf32" if x.dtype == torch.float32 and x.is_cuda and torch.backends.cuda.matmul.allow_tf32 else "ieee"


def upcast() -> bool:
    """Whether operands are cast to float32 after a load: the interpreter's bfloat16 products are wrong."""
    return interpreted()


def programs(x: Tensor, work: int, per_processor: int) -> int:
    """How many programs share ``work`` pieces of work, as many as run at a time on the device of x; at least one."""
    if not x.is_cuda:
        return max(1, min(work, 2))
    return max(1, min(work, per_processor * torch.cuda.get_device_properties(x.device).multi_processor_count))
