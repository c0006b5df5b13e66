"""On a CUDA device: every kernel in every dtype, under every transform, compiled, at odd sizes and beyond 2^31."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from funcrec.kernels import cross, dot, fm, lookup, wukong
from funcrec.train.step import INDUCTOR
from tests.kernels.cases import OpCase
from tests.kernels.test_transforms import assert_near, each_case, run, to
from tests.kernels.transforms import COMPILED, TRANSFORMS, WHOLE_JACOBIANS, floats, of_floats, outputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# Whole Jacobians of thousands of rows do not fit, and third derivatives of large sums leave float32.
TINY = (*WHOLE_JACOBIANS, "third_order", "grad_grad")
RATIOS = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@pytest.fixture(params=["highest", "high"])
def tf32(request: pytest.FixtureRequest) -> Any:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(request.param)
    yield request.param == "high"
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("dtype", RATIOS, ids=str)
@each_case
def test_kernels_at_odd_sizes(case: OpCase, dtype: torch.dtype) -> None:
    args = case.make(dtype, "cuda", "odd")
    poison(args)
    got = case.op(*args)
    assert_near(got, case.reference(*to(args, torch.float64)), RATIOS[dtype], case.reference(*args))


@each_case
def test_kernels_in_tf32(case: OpCase, tf32: bool) -> None:
    args = case.make(torch.float32, "cuda", "odd")
    assert_near(case.op(*args), case.reference(*to(args, torch.float64)), 2e-3 if tf32 else 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@each_case
def test_gradients_in_half_precision(case: OpCase, dtype: torch.dtype) -> None:
    args = case.make(dtype, "cuda", "tiny")  # large sums of an adjoint op would leave half precision behind the sine
    expected = run(case, case.reference, to(args, torch.float64), "backward")
    assert_near(run(case, case.op, args, "backward"), expected, 6e-2, run(case, case.reference, args, "backward"))


def poison(args: tuple[Any, ...]) -> None:
    """Leave NaN in the memory that the next allocations will get."""
    for a in args:
        if isinstance(a, Tensor) and a.is_floating_point():
            torch.full_like(a, float("nan"))


@pytest.mark.parametrize("transform", TRANSFORMS)
@each_case
def test_transforms(case: OpCase, transform: str) -> None:
    args = case.make(torch.float32, "cuda", "tiny" if transform in TINY else "odd")
    expected = run(case, case.reference, to(args, torch.float64), transform)
    ratio = 2e-3 if transform == "third_order" else 2e-4
    assert_near(run(case, case.op, args, transform), expected, ratio, run(case, case.reference, args, transform))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@each_case
def test_compiled_as_one_graph(case: OpCase, backend: str) -> None:
    torch._dynamo.reset()
    args = case.make(torch.float32, "cuda", "odd")
    values = [args[i] for i in floats(args)]

    def everything(op: Any, *v: Tensor) -> dict[str, Any]:
        return {t: TRANSFORMS[t](of_floats(op, args), v) for t in COMPILED}

    options = INDUCTOR if backend == "inductor" else None
    got = torch.compile(lambda *v: everything(case.op, *v), fullgraph=True, backend=backend, options=options)(*values)
    wide = to(args, torch.float64)
    expected = {t: TRANSFORMS[t](of_floats(case.reference, wide), [wide[i] for i in floats(wide)]) for t in COMPILED}
    assert_near(got, expected, 5e-4, everything(case.reference, *values))


def _beyond(*shape: int) -> Tensor:
    """More than 2^31 numbers: ``shape`` are the dims behind the batch."""
    size = 1
    for n in shape:
        size *= n
    return torch.randn(2**31 // size + 3, *shape, device="cuda", dtype=torch.bfloat16)


def _compare_ends(got: Any, reference: Any, batched: list[Tensor], *rest: Any) -> None:
    """The first and the last rows of what came, with the reference of these rows."""
    for part in (slice(0, 5), slice(-5, None)):
        expected = reference(*(t[part].double() for t in batched), *rest)
        assert_near([t[part] for t in outputs(got)], list(outputs(expected)), 2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("op", ["dot", "fm", "cross", "wukong", "lookup"])
def test_more_than_2_31_elements(op: str) -> None:
    if op == "dot":
        x = _beyond(26, 128)
        c = torch.randn(x.shape[0], 325, device="cuda", dtype=torch.bfloat16)
        _compare_ends(dot.dots(x, None, False), dot._dots, [x], None, False)
        _compare_ends(dot.dots_vjp(c, x, None, False)[0], lambda c, x: dot._dots_vjp(c, x, None, False)[0], [c, x])
    elif op == "fm":
        x = _beyond(39, 16)
        _compare_ends(fm.fm(x), fm._fm, [x])
        _compare_ends(fm.fm_spread(x[:, 0], x), fm._fm_spread, [x[:, 0], x])
    elif op == "cross":
        x, w = _beyond(3456), torch.randn(2, 2, 3456, device="cuda", dtype=torch.bfloat16) * 0.02
        _compare_ends(cross.cross(x, *w), cross._cross, [x], *w.double())
        _compare_ends(cross.cross_vjp(x, x, *w)[0], lambda c, x: cross._cross_vjp(c, x, *w.double())[0], [x, x])
    elif op == "wukong":
        x, w = _beyond(64, 128), torch.randn(64, 16, device="cuda", dtype=torch.bfloat16)
        _compare_ends(wukong.products(x, w), wukong._products, [x], w.double())
    else:
        table = _beyond(128)
        ids = torch.arange(table.shape[0] - 1, -1, -1, device="cuda")
        assert torch.equal(lookup.gathered(table, ids)[:5], table[-5:].flip(0))
        offsets = torch.arange(ids.shape[0] + 1, device="cuda")
        assert torch.equal(lookup.pooled(table, ids, offsets, None)[-5:], table[:5].flip(0))
    torch.cuda.empty_cache()
