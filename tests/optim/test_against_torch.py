"""Dense optimizers agree with torch.optim in float64, option by option; LAMB with the paper's formula."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from funcrec.optim import Optimizer, adadelta, adagrad, adam, adamw, decoupled_decay, lamb, rmsprop, sgd
from tests.optim.cases import PATHS, close, draw, trajectory

PAIRS: dict[str, tuple[Optimizer, Callable[..., torch.optim.Optimizer], dict]] = {
    "sgd": (sgd(0.1), torch.optim.SGD, {"lr": 0.1}),
    "sgd_l2": (sgd(0.1, weight_decay=0.2), torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.2}),
    "momentum": (sgd(0.1, 0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "dampening": (
        sgd(0.1, 0.9, dampening=0.4, weight_decay=0.1),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.1},
    ),
    "nesterov": (
        sgd(0.1, 0.8, nesterov=True, weight_decay=0.1),
        torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
    "adam": (adam(0.1), torch.optim.Adam, {"lr": 0.1}),
    "adam_l2": (
        adam(0.1, (0.7, 0.9), 1e-3, weight_decay=0.2),
        torch.optim.Adam,
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.2},
    ),
    "adamw": (adamw(0.1), torch.optim.AdamW, {"lr": 0.1}),
    "adamw_decay": (
        adamw(0.1, (0.7, 0.9), 1e-3, weight_decay=0.5),
        torch.optim.AdamW,
        {"lr": 0.1, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.5},
    ),
    "adam_plus_decoupled": (
        decoupled_decay(adam(0.1), 0.5, 0.1),
        torch.optim.AdamW,
        {"lr": 0.1, "weight_decay": 0.5},
    ),
    "adagrad": (adagrad(0.1), torch.optim.Adagrad, {"lr": 0.1}),
    "adagrad_options": (
        adagrad(0.1, initial_accumulator=0.3, eps=1e-3, weight_decay=0.2),
        torch.optim.Adagrad,
        {"lr": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-3, "weight_decay": 0.2},
    ),
    # short memories: the largest second moment must not be the latest
    "amsgrad": (
        adam(0.1, (0.5, 0.3), weight_decay=0.2, amsgrad=True),
        torch.optim.Adam,
        {"lr": 0.1, "betas": (0.5, 0.3), "weight_decay": 0.2, "amsgrad": True},
    ),
    "adamw_amsgrad": (
        adamw(0.1, (0.5, 0.3), weight_decay=0.2, amsgrad=True),
        torch.optim.AdamW,
        {"lr": 0.1, "betas": (0.5, 0.3), "weight_decay": 0.2, "amsgrad": True},
    ),
    "rmsprop": (rmsprop(0.1), torch.optim.RMSprop, {"lr": 0.1}),
    "rmsprop_options": (
        rmsprop(0.1, 0.7, 1e-2, weight_decay=0.2),
        torch.optim.RMSprop,
        {"lr": 0.1, "alpha": 0.7, "eps": 1e-2, "weight_decay": 0.2},
    ),
    "adadelta": (adadelta(), torch.optim.Adadelta, {}),
    "adadelta_options": (
        adadelta(0.3, 0.7, 1e-2, weight_decay=0.2),
        torch.optim.Adadelta,
        {"lr": 0.3, "rho": 0.7, "eps": 1e-2, "weight_decay": 0.2},
    ),
}


@pytest.mark.parametrize("donate", [False, True], ids=["pure", "donate"])
@pytest.mark.parametrize("name", PAIRS)
def test_six_steps_as_torch_optim(name: str, donate: bool) -> None:
    ours, make, options = PAIRS[name]
    start = draw(0)
    parameters = [torch.nn.Parameter(w.clone()) for w in start]
    theirs = make(parameters, **options)
    for i in range(6):
        for p, g in zip(parameters, draw(100 + i), strict=True):
            p.grad = g
        theirs.step()
    close(trajectory(ours, start, 6, donate=donate), [p.detach() for p in parameters])


def test_lamb_is_the_papers_formula_leaf_by_leaf() -> None:
    lr, b1, b2, eps, decay = 0.1, 0.8, 0.9, 1e-6, 0.3
    leaves = [w for w in draw(0) if w.numel()]
    optimizer = lamb(lr, (b1, b2), eps, weight_decay=decay)
    ours, state = leaves, optimizer.init(leaves, PATHS[:-1])
    m, v = [torch.zeros_like(w) for w in leaves], [torch.zeros_like(w) for w in leaves]
    expected = [w.clone() for w in leaves]
    for t in range(1, 6):
        grads = draw(t, [tuple(w.shape) for w in leaves])
        ours, state = optimizer.step(grads, state, ours)
        for j, g in enumerate(grads):
            m[j] = b1 * m[j] + (1 - b1) * g
            v[j] = b2 * v[j] + (1 - b2) * g**2
            r = m[j] / (1 - b1**t) / ((v[j] / (1 - b2**t)) ** 0.5 + eps) + decay * expected[j]
            expected[j] = expected[j] - lr * (expected[j].norm() / r.norm()) * r
    close(ours, expected)


def test_lamb_takes_a_ratio_of_one_at_zero_norms() -> None:
    zero, still = torch.zeros(3, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    grads = [torch.full_like(zero, 2.0), torch.zeros_like(still)]
    optimizer = lamb(0.1)
    (moved, unmoved), _ = optimizer.step(grads, optimizer.init([zero, still], ["a", "b"]), [zero, still])
    torch.testing.assert_close(moved, torch.full_like(zero, -0.1), rtol=1e-5, atol=0)
    assert torch.equal(unmoved, still)


def test_lamb_step_length_is_relative_to_the_leaf() -> None:
    """Without decay the step's norm is lr·‖w‖, whatever the gradient's size."""
    leaves, grads = draw(0, [(5, 2), (7,)]), draw(1, [(5, 2), (7,)])
    optimizer = lamb(0.1)
    for size in (1e-3, 1.0, 1e3):
        updates, _ = optimizer.update([g * size for g in grads], optimizer.init(leaves, ["a", "b"]), leaves)
        close([u.norm() for u in updates], [0.1 * w.norm() for w in leaves])
