"""Learning rates and optimizers of a train config: the original's values, its defaults, and what is refused."""

from __future__ import annotations

import math

import pytest

from funcrec.core.errors import ConfigError
from funcrec.interop.easyrec import parse
from funcrec.interop.easyrec.learning_rates import learning_rate
from funcrec.interop.easyrec.optimizers import dense_optimizer, sparse_rule
from funcrec.optim import as_schedule

from .pipelines import PIPELINES, random_variables
from .training_reference import CONSTANT, SGD, f32, system_of


def rates(text: str, n: int, start: int = 0, lr: str = "0.01", **options) -> list[float]:
    message = system_of(f"sgd_optimizer {{ lr: {lr} }} {text}").train_config.dense_optimizer
    schedule = learning_rate(message, message.sgd_optimizer.lr, "dense_optimizer", **options)
    return [schedule(k) for k in range(start, n)]


def test_the_originals_own_values():
    decay = "decay_size: 1 decay_factor: 0.7"
    assert rates(f"exponential_decay_learning_rate {{ {decay} }}", 3, 1) == pytest.approx([0.007, 0.0049])
    warm = f"exponential_decay_learning_rate {{ {decay} warmup_learning_rate: 0.005 warmup_size: 2 }}"
    assert rates(warm, 4, 1) == pytest.approx([0.0075, 0.01, 0.007])
    manual = "manual_step_learning_rate { schedule_sizes: [2, 4, 8] learning_rates: [0.008, 0.004, 0.002] }"
    assert rates(manual, 11, 1) == pytest.approx([0.01] * 2 + [0.008] * 2 + [0.004] * 4 + [0.002] * 2)


WARM = "warmup_size: 2 warmup_learning_rate: 0.002 min_learning_rate: 0.001"
COSINE = [0.001 + 0.009 * (1 + math.cos(math.pi * t / 4)) / 2 for t in range(5)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CONSTANT, [0.01] * 10),
        (f"exponential_decay_learning_rate {{ decay_size: 2 decay_factor: 0.5 {WARM} }}",
         [0.002, 0.006, 0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025, 0.00125, 0.00125]),
        (f"exponential_decay_learning_rate {{ decay_size: 2 decay_factor: 0.25 staircase: false {WARM} }}",
         [0.002, 0.006, 0.01, 0.005, 0.0025, 0.00125, 0.001, 0.001, 0.001, 0.001]),
        ("manual_step_learning_rate { schedule_sizes: [4, 6] learning_rates: [0.02, 0.005] warmup: true }",
         [0.01, 0.0125, 0.015, 0.0175, 0.02, 0.02, 0.02, 0.005, 0.005, 0.005]),
        (f"cosine_annealing_learning_rate {{ T_max: 4 {WARM} }}", [0.002, 0.006, *COSINE, 0.001, 0.001, 0.001]),
        (f"cosine_annealing_warm_restarts_learning_rate {{ T_0: 4 {WARM} }}",
         [0.002, 0.006, *COSINE[:4], *COSINE[:4]]),
        (f"cosine_annealing_warm_restarts_learning_rate {{ T_0: 2 T_mult: 2 {WARM} }}",
         [0.002, 0.006, COSINE[0], COSINE[2], *COSINE[:4], COSINE[0], 0.001 + 0.009 * (1 + math.cos(math.pi / 8)) / 2]),
        (f"linear_decay_learning_rate {{ total_size: 6 {WARM} }}",
         [0.002, 0.006, 0.01, 0.00775, 0.0055, 0.00325, 0.001, 0.001, 0.001, 0.001]),
    ],
)  # fmt: skip
def test_schedules_count_batches_from_zero(text, expected):
    assert rates(text, 10) == pytest.approx(expected, rel=1e-6)
    if text != CONSTANT:
        by_epoch = text.replace("{", "{ by_epoch: true", 1)
        assert rates(by_epoch, 20, steps_per_epoch=2) == pytest.approx(
            [r for r in expected for _ in range(2)], rel=1e-6
        )
        with pytest.raises(ConfigError, match="by_epoch with steps_per_epoch: got None"):
            rates(by_epoch, 1)
    assert rates(text, 10, lr="0.0") == [0.0] * 10


def test_defaults_are_the_schemas_in_float32():
    config = system_of(f"sgd_optimizer {{}} {CONSTANT}", f"rowwise_adagrad_optimizer {{}} {CONSTANT}").train_config
    assert config.dense_optimizer.sgd_optimizer.momentum == 0.8999999761581421
    rule = sparse_rule(config)
    assert (rule.name, rule.max_gradient, as_schedule(rule.learning_rate)(7)) == ("rowwise_adagrad", None, f32(0.002))


@pytest.mark.parametrize(
    ("dense", "sparse", "more", "message"),
    [
        (CONSTANT, SGD, "", "dense_optimizer: optimizer: got none"),
        (SGD, CONSTANT, "", "sparse_optimizer: optimizer: got none"),
        ("sgd_optimizer {}", SGD, "", "dense_optimizer: learning_rate: got none, expected one of constant_learning"),
        (SGD, "sgd_optimizer {}", "", "sparse_optimizer: learning_rate: got none"),
        (SGD, f"adadelta_optimizer {{}} {CONSTANT}", "", "sparse_optimizer: got adadelta_optimizer.*patched kernels"),
        (SGD, f"rmsprop_optimizer {{}} {CONSTANT}", "", "sparse_optimizer: got rmsprop_optimizer"),
        (SGD, SGD, 'mixed_precision: "BF16"', "train_config.mixed_precision: got 'BF16'"),
        (SGD, SGD, "grad_scaler {}", "train_config.grad_scaler"),
        (SGD, SGD, 'grad_clipping { clipping_type: "both" }', "clipping_type: got 'both'"),
        (SGD, SGD, 'grad_clipping { clipping_type: "norm" max_gradient: 0 }', "max_norm: got 0.0"),
        (f'{SGD} part_optimizers {{ sgd_optimizer {{}} regex_pattern: "(" }}', SGD, "", r"part_optimizers\[0\]: regex"),
        (
            f'{SGD} part_optimizers {{ regex_pattern: "cross.*" }}',
            SGD,
            "",
            r"part_optimizers\[0\]: optimizer: got none",
        ),
        ("sgd_optimizer {} cosine_annealing_learning_rate {}", SGD, "", "t_max: got 0"),
        ("sgd_optimizer {} linear_decay_learning_rate { total_size: 2 warmup_size: 2 }", SGD, "", "total_size: got 2"),
        ("sgd_optimizer { momentum: 0 nesterov: true } constant_learning_rate {}", SGD, "", "sgd: nesterov"),
    ],
)
def test_what_cannot_be_done_says_so(dense, sparse, more, message):
    system = system_of(dense, sparse, more)
    with pytest.raises(ConfigError, match=message):
        system.init_training(random_variables(system))


def test_what_has_no_effect_says_so():
    config = system_of(SGD, f"rowwise_adagrad_optimizer {{ weight_decay: 0.1 }} {CONSTANT}").train_config
    with pytest.warns(UserWarning, match="weight_decay 0.1 without a weight_decay_mode has no effect"):
        sparse_rule(config)
    config = system_of(f'{SGD} part_optimizers {{ sgd_optimizer {{}} regex_pattern: "cross" }}').train_config
    with pytest.warns(UserWarning, match=r"part_optimizers\[0\]: regex_pattern 'cross' gets no parameter"):
        dense_optimizer(config, ["cross.w.0.weight"])
    twice = 'part_optimizers { adam_optimizer {} regex_pattern: "cross.*" } ' * 2
    config = system_of(f"{SGD} {twice}").train_config
    with pytest.warns(UserWarning, match=r"part_optimizers\[1\]: regex_pattern 'cross\.\*' gets no parameter"):
        dense_optimizer(config, ["cross.w.0.weight"])


def test_a_config_without_training_is_no_error_until_trained():
    system = parse(PIPELINES["dcn"])
    with pytest.raises(ConfigError, match="sparse_optimizer: optimizer: got none"):
        system.init_training(random_variables(system))
