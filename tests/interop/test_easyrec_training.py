"""Weights of the dense optimizer, tables among them, against autograd with ``torch.optim``, option by option."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.swa_utils import get_ema_multi_avg_fn

from funcrec.core import tree

from .pipelines import random_variables
from .training_reference import CONSTANT, SGD, assert_same, batches, f32, run, system_of, with_torch


def every(name: str) -> bool:
    return True


PATHS = ["rowwise", "dense"]


ADAM = {"betas": (f32(0.8), f32(0.9)), "eps": f32(1e-4), "weight_decay": f32(0.1)}
ADAM_TEXT = "lr: 0.1 beta1: 0.8 beta2: 0.9 eps: 1e-4 weight_decay: 0.1"
DENSE: dict[str, tuple[str, Callable[..., torch.optim.Optimizer], dict]] = {
    "sgd": ("sgd_optimizer { lr: 0.1 }", torch.optim.SGD, {"momentum": f32(0.9)}),
    "sgd_options": (
        "sgd_optimizer { lr: 0.1 momentum: 0.7 weight_decay: 0.1 dampening: 0.3 }",
        torch.optim.SGD,
        {"momentum": f32(0.7), "weight_decay": f32(0.1), "dampening": f32(0.3)},
    ),
    "nesterov": (
        "sgd_optimizer { lr: 0.1 nesterov: true }",
        torch.optim.SGD,
        {"momentum": f32(0.9), "nesterov": True},
    ),
    "adagrad": ("adagrad_optimizer { lr: 0.1 }", torch.optim.Adagrad, {}),
    "adagrad_options": (
        "adagrad_optimizer { lr: 0.1 weight_decay: 0.1 initial_accumulator_value: 0.3 eps: 1e-3 }",
        torch.optim.Adagrad,
        {"weight_decay": f32(0.1), "initial_accumulator_value": f32(0.3), "eps": f32(1e-3)},
    ),
    "adam": ("adam_optimizer { lr: 0.1 }", torch.optim.Adam, {"betas": (f32(0.9), f32(0.999)), "eps": f32(1e-8)}),
    "adam_options": (f"adam_optimizer {{ {ADAM_TEXT} amsgrad: true }}", torch.optim.Adam, {**ADAM, "amsgrad": True}),
    "adamw": (
        "adamw_optimizer { lr: 0.1 }",
        torch.optim.AdamW,
        {"betas": (f32(0.9), f32(0.999)), "eps": f32(1e-8), "weight_decay": 0.0},
    ),
    "adamw_options": (f"adamw_optimizer {{ {ADAM_TEXT} amsgrad: true }}", torch.optim.AdamW, {**ADAM, "amsgrad": True}),
    "adadelta": (
        "adadelta_optimizer { lr: 0.1 weight_decay: 0.1 }",
        torch.optim.Adadelta,
        {"rho": f32(0.95), "eps": f32(1e-6), "weight_decay": f32(0.1)},
    ),
    "rmsprop": (
        "rmsprop_optimizer { lr: 0.1 weight_decay: 0.1 }",
        torch.optim.RMSprop,
        {"alpha": f32(0.99), "eps": f32(1e-8), "weight_decay": f32(0.1)},
    ),
}
DECAY = "exponential_decay_learning_rate { decay_size: 2 decay_factor: 0.5 warmup_size: 2 warmup_learning_rate: 0.01 }"


def decayed(k: int) -> float:
    return f32(0.01) + (f32(0.1) - f32(0.01)) * k / 2 if k < 2 else f32(0.1) * 0.5 ** ((k - 2) // 2)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", DENSE)
def test_every_dense_optimizer_takes_torchs_steps(name, path):
    text, make, options = DENSE[name]
    system = system_of(f"{text} {DECAY}")
    variables, data = random_variables(system), batches(system, 6)
    theirs = with_torch(system, variables, data, [(every, make, options, decayed)])
    assert_same(run(system, variables, data, tables=path).variables, theirs.variables)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("text", "clip"),
    [
        ('clipping_type: "norm" max_gradient: 0.05', lambda xs: clip_grad_norm_(xs, f32(0.05))),
        (
            'clipping_type: "NORM" max_gradient: 0.05 norm_type: inf',
            lambda xs: clip_grad_norm_(xs, f32(0.05), math.inf),
        ),
        ('clipping_type: "value" max_gradient: 0.01', lambda xs: clip_grad_value_(xs, f32(0.01))),
        ("max_gradient: 0.01", lambda xs: None),
    ],
)
def test_windows_are_summed_then_clipped_then_stepped(text, clip, path):
    system = system_of(
        f"adam_optimizer {{ lr: 0.1 }} {DECAY}", more=f"gradient_accumulation_steps: 3 grad_clipping {{ {text} }}"
    )
    variables, data = random_variables(system), batches(system, 8)  # the last two never reach the weights
    part = (every, *DENSE["adam"][1:], decayed)
    theirs = with_torch(system, variables, data[:6], [part], window=3, clip=clip)
    assert_same(run(system, variables, data, tables=path).variables, theirs.variables)


def test_parts_take_whole_names_in_order_with_their_own_rates_or_the_main_one():
    parts = (
        'part_optimizers { adam_optimizer { lr: 0.1 } regex_pattern: "model\\\\.deep.*" }'
        f'part_optimizers {{ adagrad_optimizer {{ lr: 0.2 }} regex_pattern: "(deep|final_dnn).*" {CONSTANT} }}'
        'part_optimizers { rmsprop_optimizer { lr: 0.1 } regex_pattern: ".*embedding_bags\\\\.a_emb\\\\.weight" }'
    )
    system = system_of(f"sgd_optimizer {{ lr: 0.1 }} {DECAY} {parts}")
    variables, data = random_variables(system), batches(system, 4)
    rmsprop = {"alpha": f32(0.99), "eps": f32(1e-8)}
    theirs = with_torch(
        system,
        variables,
        data,
        [
            (lambda n: n.startswith("deep"), *DENSE["adam"][1:], decayed),
            (lambda n: n.startswith("final_dnn"), torch.optim.Adagrad, {}, lambda k: f32(0.2)),
            (lambda n: n.endswith("embedding_bags.a_emb.weight"), torch.optim.RMSprop, rmsprop, decayed),
            (every, torch.optim.SGD, {"momentum": f32(0.9)}, decayed),
        ],
    )
    assert_same(run(system, variables, data).variables, theirs.variables)


def test_moving_averages_start_after_the_first_step():
    system = system_of(f"{SGD} ema {{ decay: 0.7 }}", more="gradient_accumulation_steps: 2")
    variables, data = random_variables(system), batches(system, 6)
    averages: list[torch.Tensor] = []

    def average(leaves):
        if averages:
            get_ema_multi_avg_fn(f32(0.7))(averages, [x.detach() for x in leaves], None)
        else:
            averages.extend(x.detach().clone() for x in leaves)

    options = {"momentum": f32(0.9)}
    part = (every, torch.optim.SGD, options, lambda k: f32(0.1))
    ref = with_torch(system, variables, data, [part], window=2, after_step=average)
    training = run(system, variables, data)
    assert_same(training.variables, ref.variables)
    for leaf, x in zip([*ref.weights.values(), *ref.tables.values()], averages, strict=True):
        leaf.data = x
    assert_same(training.averaged, ref.variables)
    without = run(system_of(), variables, data)
    assert without.averaged["params"] is without.variables["params"]


PLANS = [{"plan": "data_parallel"}, {"plan": "sharded"}, {"plan": "sharded", "tables": "dense"}]
MANY = f"adam_optimizer {{ lr: 0.1 }} {CONSTANT} ema {{}}"


@pytest.mark.parametrize("options", PLANS)
def test_a_step_leaves_its_argument_alone_and_a_donated_one_gives_the_same_numbers(options):
    system = system_of(MANY, f"adam_optimizer {{ lr: 0.1 }} {CONSTANT}", "gradient_accumulation_steps: 2")
    variables, data = random_variables(system), batches(system, 4)
    before, once = variables.clone(), run(system, variables, data[:3], **options)
    kept = once.variables.clone()
    slots = {n: {k: s.clone() for k, s in x.items()} for n, x in once.tables["slots"].items()}
    further, losses = system.train_step(once, data[3])
    again, _ = system.train_step(once, data[3])
    for a, b in ((once.variables, kept), (further.variables, again.variables), (variables, before)):
        assert all(torch.equal(x, y) for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True))
    torch.testing.assert_close(once.tables["slots"], slots, rtol=0, atol=0)
    assert set(losses) == {"binary_cross_entropy"}
    assert not any(
        torch.equal(x, y) for x, y in zip(tree.leaves(further.params), tree.leaves(kept["params"]), strict=True)
    )
    donated = run(system, variables, data, donate=True, **options)
    assert_same(donated.variables, further.variables, 1e-12)
    assert_same(donated.averaged, further.averaged, 1e-12)
