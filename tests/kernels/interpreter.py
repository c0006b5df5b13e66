"""Triton's interpreter, in which kernels run on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def interpreting() -> Iterator[None]:
    """Kernels run in the interpreter inside. Skips where it is not installed, and on machines with a GPU.

    A kernel is interpreted or compiled for good, as its file is first imported: inside, or in a test of the GPU.
    """
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("kernels that the interpreter has loaded do not run on the GPU any more")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield
