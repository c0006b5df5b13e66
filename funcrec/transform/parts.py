"""A training objective as the sum of named parts, so that one can see which part moves what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.model import Objective
from funcrec.core.tree import leaves, paths


class PartsFn(Protocol):
    """``(params, emb, features, state, key) -> ({part: scalar}, (logits, state))`` in training mode."""

    def __call__(
        self, params: TensorDict, emb: TensorDict, features: TensorDict, state: TensorDict, key: Tensor | None
    ) -> tuple[dict[str, Tensor], tuple[Tensor, TensorDict]]: ...


def total(parts: PartsFn, factors: Mapping[str, float] | None = None) -> Objective:
    """The objective ``Σ_part factor_part · part``, for ``make_step(objective=…)``.

    Args:
        factors: by part name; 1 where not given. A part of factor 0 is left out, whatever its value.

    Raises:
        ConfigError: when called, a factor of no part.
    """
    given = dict(factors or {})

    def objective(params, emb, features, state, key):
        values, aux = parts(params, emb, features, state, key)
        unknown = [name for name in given if name not in values]
        if unknown:
            fail(ConfigError, "factors of no part", got=unknown, expected=f"names among {list(values)}")
        kept = {name: given.get(name, 1.0) for name in values if given.get(name, 1.0) != 0}
        if not kept:
            fail(ConfigError, "factors", got=given, expected="at least one part with a factor that is not 0")
        return torch.stack([factor * values[name] for name, factor in kept.items()]).sum(), aux

    return objective


def part_gradients(
    parts: PartsFn,
    params: TensorDict,
    emb: TensorDict,
    features: TensorDict,
    state: TensorDict,
    key: Tensor | None = None,
) -> dict[str, tuple[TensorDict, TensorDict]]:
    """``{part: (gradient of params, gradient of emb)}``: one forward pass, then one pull-back a part.

    They add up to the gradient of ``total(parts)``.
    """
    values, pull = torch.func.vjp(lambda p, e: parts(p, e, features, state, key)[0], params, emb)[:2]
    cotangents = {
        name: {n: torch.ones_like(v) if n == name else torch.zeros_like(v) for n, v in values.items()}
        for name in values
    }
    return {name: pull(cotangent) for name, cotangent in cotangents.items()}


def routing(
    parts: PartsFn,
    params: TensorDict,
    emb: TensorDict,
    features: TensorDict,
    state: TensorDict,
    key: Tensor | None = None,
) -> dict[str, dict[str, float]]:
    """Which part reaches what: ``{part: {subtree: norm of its gradient}}``, a table by rows.

    Columns are the top names of ``params`` that hold anything, then ``"emb"``. A 0.0 is exact where the gradient is
    stopped.
    """

    def norm(t: Any) -> float:
        xs = [t] if isinstance(t, Tensor) else leaves(t)
        return math.sqrt(sum(float(x.double().square().sum()) for x in xs))

    columns = list(dict.fromkeys(path.split(".")[0] for path in paths(params)))
    table = {}
    for part, (d_params, d_emb) in part_gradients(parts, params, emb, features, state, key).items():
        table[part] = {name: norm(d_params.get(name)) for name in columns} | {"emb": norm(d_emb)}
    return table
