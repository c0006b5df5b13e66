"""Initial laws of tables, written as calls of ``torch.nn.init``."""

from __future__ import annotations

import ast
from typing import cast

from funcrec.core.errors import ConfigError, fail
from funcrec.core.init import (
    Constant,
    Initializer,
    KaimingUniform,
    Normal,
    RowCountUniform,
    Uniform,
    XavierNormal,
    XavierUniform,
)

# torch.nn.init by name: the initializer, and its arguments in torch's order with their defaults.
_INITIALIZERS: dict[str, tuple] = {
    "uniform_": (Uniform, {"a": 0.0, "b": 1.0}),
    "normal_": (lambda mean, std: Normal(std, mean), {"mean": 0.0, "std": 1.0}),
    "constant_": (Constant, {"val": None}),
    "zeros_": (lambda: Constant(0.0), {}),
    "ones_": (lambda: Constant(1.0), {}),
    "xavier_uniform_": (XavierUniform, {}),
    "xavier_normal_": (XavierNormal, {}),
    "kaiming_uniform_": (KaimingUniform, {}),
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
