"""Every op under every transform gives its einops form's answer: rules in float64, kernels in Triton's interpreter.

On the GPU the same is in ``test_gpu.py``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from funcrec.kernels import primitive
from tests.kernels.cases import OpCase
from tests.kernels.table import CASES
from tests.kernels.transforms import COMPILED, TRANSFORMS, floats, of_floats

each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def to(args: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    return tuple(a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


def error(got: Tensor, expected: Tensor) -> float:
    """``‖got − expected‖ / ‖expected‖``; of an expected zero, the norm of what came."""
    scale = expected.norm() if expected.norm() > 0 else torch.ones(())
    return float((got.double() - expected).norm() / scale)


def assert_near(got: Any, expected: Any, ratio: float, rival: Any = None) -> None:
    """The error of every tensor is below ``ratio``, or twice that of ``rival``, which computed the same as well as its
    dtype allows; where even that is far off (a sine of what half precision cannot hold), the two agree. A zero where
    there should be a number is an error of 1, and no error is below anything for a NaN."""
    got, expected = pytree.tree_leaves(got), pytree.tree_leaves(expected)
    rivals = [None] * len(expected) if rival is None else pytree.tree_leaves(rival)
    assert len(got) == len(expected)
    for i, (a, b, r) in enumerate(zip(got, expected, rivals, strict=True)):
        assert a.shape == b.shape
        if b.numel():
            allowed = ratio if r is None else max(ratio, 2 * min(error(r, b), 0.1))
            seen = error(a, b)
            agreed = r is not None and error(a, r.double()) < ratio
            assert seen < allowed or agreed, f"result {i}: error {seen:.1e}, allowed {allowed:.1e}"


def run(case: OpCase, f: Any, args: tuple[Any, ...], transform: str) -> Any:
    return TRANSFORMS[transform](of_floats(f, args), [args[i] for i in floats(args)])


@pytest.mark.parametrize("transform", TRANSFORMS)
@each_case
def test_rules(case: OpCase, transform: str) -> None:
    args = case.make(torch.float64, "cpu", "tiny")
    assert_near(run(case, case.op, args, transform), run(case, case.reference, args, transform), 1e-9)


def test_every_op_is_a_case() -> None:
    covered = {str(c.op).split(".")[1] for c in CASES}  # "funcrec.dots.default"
    assert covered == set(primitive.names())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@each_case
def test_kernels_in_the_interpreter(case: OpCase, dtype: torch.dtype, interpreter: None) -> None:
    args = case.make(dtype, "cpu", "tiny")
    got = case.op(*args)
    expected = case.reference(*to(args, torch.float64))
    assert_near(got, expected, 1e-5 if dtype == torch.float32 else 3e-2)
    like = pytree.tree_leaves(case.reference(*args))
    for a, b in zip(pytree.tree_leaves(got), like, strict=True):
        assert a.dtype == b.dtype
        assert a.is_contiguous()


@pytest.mark.parametrize("transform", ["grad", "vmap_grad", "jvp", "hvp_forward_over_reverse"])
@each_case
def test_kernels_under_transforms_in_the_interpreter(case: OpCase, transform: str, interpreter: None) -> None:
    args = case.make(torch.float32, "cpu", "tiny")
    expected = run(case, case.reference, to(args, torch.float64), transform)
    assert_near(run(case, case.op, args, transform), expected, 1e-4)


@pytest.mark.filterwarnings("ignore:dynamo_pgo force disabled:UserWarning")
@each_case
def test_compiled_as_one_graph(case: OpCase) -> None:
    torch._dynamo.reset()
    args = case.make(torch.float64, "cpu", "tiny")
    values = [args[i] for i in floats(args)]

    def everything(op: Any, *v: Tensor) -> dict[str, Any]:
        return {t: TRANSFORMS[t](of_floats(op, args), v) for t in COMPILED}

    got = torch.compile(lambda *v: everything(case.op, *v), fullgraph=True, backend="aot_eager")(*values)
    assert_near(got, everything(case.reference, *values), 1e-9)
