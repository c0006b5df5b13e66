"""Initial laws of tables, written as calls of ``torch.nn.init``."""

from __future__ import annotations

import ast
from functools import partial
from typing import Any, cast

from torch.nn.init import calculate_gain

from funcrec.core.errors import ConfigError, fail
from funcrec.core.init import (
    Constant,
    Initializer,
    KaimingNormal,
    KaimingUniform,
    Normal,
    RowCountUniform,
    TruncatedNormal,
    Uniform,
    XavierNormal,
    XavierUniform,
)

_KAIMING = {"a": 0.0, "mode": "fan_in", "nonlinearity": "leaky_relu"}


def _kaiming(law: type[KaimingUniform] | type[KaimingNormal], a: float, mode: str, nonlinearity: str) -> Initializer:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode {mode!r} is neither 'fan_in' nor 'fan_out'")
    return law(calculate_gain(cast(Any, nonlinearity), a), fan_out=mode == "fan_out")


# torch.nn.init by name: the initializer, and its arguments in torch's order with their defaults.
_INITIALIZERS: dict[str, tuple] = {
    "uniform_": (Uniform, {"a": 0.0, "b": 1.0}),
    "normal_": (lambda mean, std: Normal(std, mean), {"mean": 0.0, "std": 1.0}),
    "constant_": (Constant, {"val": None}),
    "zeros_": (lambda: Constant(0.0), {}),
    "ones_": (lambda: Constant(1.0), {}),
    "trunc_normal_": (
        lambda mean, std, a, b: TruncatedNormal(std, mean, a, b),
        {"mean": 0.0, "std": 1.0, "a": -2.0, "b": 2.0},
    ),
    "xavier_uniform_": (XavierUniform, {"gain": 1.0}),
    "xavier_normal_": (XavierNormal, {"gain": 1.0}),
    "kaiming_uniform_": (partial(_kaiming, KaimingUniform), _KAIMING),
    "kaiming_normal_": (partial(_kaiming, KaimingNormal), _KAIMING),
}


def initializer(text: str, where: str) -> Initializer:
    """The initial law of ``"nn.init.uniform_,a=-0.01,b=0.01"``; the default of tables for ``""``.

    Raises:
        ConfigError: an unknown function, or arguments that it does not take.
    """
    if not text:
        return RowCountUniform()
    function, _, rest = text.partition(",")
    name = function.strip().removeprefix("torch.").removeprefix("nn.").removeprefix("init.")
    known, fix = sorted(_INITIALIZERS), "write it as 'nn.init.uniform_,a=-0.01,b=0.01'"
    if name not in _INITIALIZERS:
        fail(ConfigError, f"{where}: initial law", got=repr(text), expected=f"one of {known}", fix=fix)
    make, defaults = _INITIALIZERS[name]
    try:
        call = cast(ast.Call, ast.parse(f"f({rest})", mode="eval").body)
        given = dict(zip(defaults, (ast.literal_eval(a) for a in call.args), strict=False))
        given |= {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        arguments = {**defaults, **given}
        if set(arguments) != set(defaults) or None in arguments.values() or len(call.args) > len(defaults):
            raise ValueError(f"{name} takes {list(defaults)}")
        return make(*arguments.values())
    except (SyntaxError, ValueError, TypeError) as e:
        fail(ConfigError, f"{where}: arguments of the initial law", got=f"{text!r} ({e})", fix=fix)
