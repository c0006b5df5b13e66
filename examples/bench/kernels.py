"""Fast paths of layers on a GPU, beside the same layers as usually written and as compiled einops forms, in one run.

python examples/bench/kernels.py [--only CIN dot] [--out DIR] [--max-autotune]

Every answer and every gradient is compared with a naive float64 form first; a wrong one gets no ratio. A time is the
lower of launched and CUDA-graph replay, for all sides alike. The naive forms are eager and compiled, the better counts;
"floor" is the larger of operations and bytes at the rates measured in this run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch
from kernel_cases import CASES, Case
from torch import Tensor

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = {"fp32": 1e-5, "tf32": 3e-3, "bf16": 3e-2, "fp16": 5e-3}
Runs = dict[str, Callable[..., Tensor]]


def differentiable(values: list[Tensor]) -> list[Tensor]:
    return [v.detach().clone().requires_grad_() if v.is_floating_point() else v for v in values]


def gradients(f: Callable[..., Tensor], values: list[Tensor], c: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(f(*values), [v for v in values if v.requires_grad], c)


def truth(case: Case, c: Tensor, chunk: int = 512) -> list[Tensor]:
    """Output and gradients of the naive form in float64, a few rows at a time: parameters' gradients add up."""
    params = [p.detach().double().requires_grad_() for p in case.params]
    rows: list[list[Tensor]] = []
    total = [torch.zeros_like(p) for p in params]
    for at in range(0, c.shape[0], chunk):
        part = [v[at : at + chunk] for v in case.inputs]
        part = [v.double().requires_grad_() if v.is_floating_point() else v for v in part]
        out = case.naive(*part, *params)
        given = [v for v in part if v.requires_grad]
        grads = torch.autograd.grad(out, [*given, *params], c[at : at + chunk].double())
        rows.append([out.detach(), *grads[: len(given)]])
        total = [t + g for t, g in zip(total, grads[len(given) :], strict=True)]
    return [torch.cat(r) for r in zip(*rows, strict=True)] + total


def error(f: Callable[..., Tensor], case: Case, c: Tensor, expected: list[Tensor]) -> float:
    """The largest ``‖got − expected‖ / ‖expected‖`` among the output and the gradients."""
    values = differentiable([*case.inputs, *case.params])
    got = [f(*values).detach(), *gradients(f, values, c)]
    # A gradient that is zero by an identity (a bias before a softmax) has nothing but rounding to compare.
    least = 1e-3 * max(float(b.norm()) for b in expected)
    errors = [float((a.double() - b).norm()) / max(float(b.norm()), least) for a, b in zip(got, expected, strict=True)]
    return max(e if e == e else float("inf") for e in errors)


def lower(f: Callable[[], object], graph: bool = True) -> float:
    """Microseconds of a call: the median launched, or replayed from a CUDA graph where that is less."""
    from triton.testing import do_bench, do_bench_cudagraph

    launched = do_bench(f, warmup=10, rep=50, return_mode="median")
    if graph:
        try:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                launched = min(launched, do_bench_cudagraph(f, rep=30, return_mode="median"))
        except Exception as e:
            print(f"      (no graph: {str(e).splitlines()[0][:80]})")
            torch.cuda.synchronize()
    return launched * 1e3


def measure(f: Callable[..., Tensor], case: Case, c: Tensor) -> dict[str, float]:
    values = differentiable([*case.inputs, *case.params])
    with torch.no_grad():
        forward = lower(lambda: f(*values))
    both = lower(lambda: gradients(f, values, c))
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    gradients(f, values, c)
    return {"f": forward, "fb": both, "MiB": (torch.cuda.max_memory_allocated() - before) / 2**20}


def variants(case: Case, max_autotune: bool) -> Runs:
    """By name: the naive form, the einops form, the fast path; eager and compiled."""
    forms: Runs = {"naive": case.naive, "einops": case.layer("reference"), "fast": case.layer("auto")}
    out: Runs = {}
    for name, form in forms.items():
        torch._dynamo.reset()
        out[name] = form
        out[f"{name}+compiled"] = torch.compile(form, fullgraph=True, dynamic=False)
        if max_autotune and name != "fast":
            out[f"{name}+autotuned"] = torch.compile(form, fullgraph=True, mode="max-autotune-no-cudagraphs")
    return out


def bench(name: str, precision: str, rates: dict[str, float], max_autotune: bool) -> dict[str, Any]:
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    case = CASES[name][0](DTYPES[precision], "cuda")
    shape = case.naive(*(v[:2] for v in case.inputs), *case.params).shape
    c = torch.randn(case.inputs[0].shape[0], *shape[1:], device="cuda", dtype=DTYPES[precision])
    expected = truth(case, c)
    rows: dict[str, Any] = {}
    for label, form in variants(case, max_autotune).items():
        try:
            worst = error(form, case, c, expected)
            rows[label] = {"error": worst, **measure(form, case, c)}
        except torch.cuda.OutOfMemoryError:
            rows[label] = {"error": float("nan"), "f": float("inf"), "fb": float("inf"), "MiB": float("inf")}
        torch.cuda.empty_cache()
    size = DTYPES[precision].itemsize
    rate = rates["bf16" if size == 2 else "tf32" if precision == "tf32" else "fp32"]
    work = {
        "f": {"flops": case.flops, "bytes": case.numbers * size},
        "fb": {"flops": 3 * case.flops, "bytes": case.numbers_both * size},
    }
    floors = {k: max(w["flops"] / rate, w["bytes"] / rates["copy"]) * 1e6 for k, w in work.items()}
    return {"case": name, "precision": precision, "floor": floors, "work": work, "forms": rows}


def show(result: dict[str, Any]) -> None:
    """One line a form, and the ratios unless an answer is wrong."""
    print(f"{result['case']} {result['precision']}: floor {result['floor']['f']:.0f} / {result['floor']['fb']:.0f} us")
    forms = result["forms"]
    for label, r in forms.items():
        print(f"    {label:16s} {r['f']:9.0f} / {r['fb']:9.0f} us  {r['MiB']:8.0f} MiB  error {r['error']:.1e}")
    # As exact as the precision allows: where the naive form is worse than the bound, it is the measure.
    allowed = max(TOLERANCE[result["precision"]], 1.5 * min(forms["naive"]["error"], 0.1))
    wrong = [k for k, r in forms.items() if k[:4] == "fast" and not r["error"] < allowed]
    if wrong:
        print(f"    wrong answer: {wrong}; no ratio")
        return
    best = lambda prefix, what: min(r[what] for k, r in forms.items() if k.startswith(prefix))  # noqa: E731
    result["ratio"] = {w: best("naive", w) / best("fast", w) for w in ("f", "fb")}
    result["over_einops"] = {w: best("einops", w) / best("fast", w) for w in ("f", "fb")}
    result["share"] = {w: result["floor"][w] / best("fast", w) for w in ("f", "fb")}
    parts = [f"{w}: {result['ratio'][w]:.2f}x naive, {result['over_einops'][w]:.2f}x einops" for w in ("f", "fb")]
    memory = forms["fast"]["MiB"] / forms["naive+compiled"]["MiB"]
    shares = " / ".join(f"{result['share'][w]:.0%}" for w in ("f", "fb"))
    print(f"    {parts[0]}; {parts[1]}; {shares} of the floor; memory {memory:.2f}x")


def rates_here() -> dict[str, float]:
    """FLOP/s by precision and bytes/s, read and written, of this GPU now."""
    a = torch.randn(8192, 8192, device="cuda")
    rates = {}
    for label, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("fp32", torch.float32, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        x = a.to(dtype)
        times = [lower(lambda x=x: x @ x, graph=False) for _ in range(3)]
        rates[label] = 2 * 8192**3 / statistics.median(times) * 1e6
    source, target = torch.randn(2, 1 << 29, device="cuda")
    rates["copy"] = 2 * source.numel() * 4 / lower(lambda: target.copy_(source), graph=False) * 1e6
    return rates


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="cases whose name starts so")
    parser.add_argument("--out", type=Path, help="folder for kernels.json, of which roofline.py draws a picture")
    parser.add_argument("--max-autotune", action="store_true")
    o = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("the fast paths are measured on a CUDA device, and there is none here")
    rates = rates_here()
    print(machine.name("cuda"), {k: f"{v / 1e12:.3g} T/s" for k, v in rates.items()})
    results = []
    for name, (_, precisions) in CASES.items():
        for precision in precisions if any(name.startswith(s) for s in o.only) else ():
            results.append(bench(name, precision, rates, o.max_autotune))
            show(results[-1])
            if o.out:
                o.out.mkdir(parents=True, exist_ok=True)
                record = {"machine": machine.name("cuda"), "rates": rates, "results": results}
                (o.out / "kernels.json").write_text(json.dumps(record, indent=1))
