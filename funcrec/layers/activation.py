"""Activations by name: ``"nn.ReLU"``, ``"leaky_relu(negative_slope=0.2)"``, ``"nn.PReLU"``, ``"Dice"``, ``""``."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, NoReturn

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, fail
from funcrec.core.tree import tree
from funcrec.layers.dice import dice, init_dice

Trees = tuple[TensorDict | None, TensorDict | None]


class Activation(NamedTuple):
    """``init(key, n, dtype) -> (params, state)`` and ``apply(params, x, state, *, train, mask) -> (y, state)``.

    ``x`` is ``[..., n]``; ``mask``, ``[...]`` or None, says which rows count in batch statistics. Both trees are None
    where there is nothing to learn, nothing to keep.
    """

    init: Callable[[Tensor, int, torch.dtype | None], Trees]
    apply: Callable[..., tuple[Tensor, TensorDict | None]]


def _identity(x: Tensor) -> Tensor:
    return x


def _hardsigmoid(x: Tensor) -> Tensor:
    return F.relu6(x + 3.0) / 6.0  # torch's own has no second derivative


# By name in lower case without underscores: the function, and the arguments that a spec may set, in torch.nn's order.
_FUNCTIONS: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "celu": (F.celu, ("alpha",)),
    "elu": (F.elu, ("alpha",)),
    "gelu": (F.gelu, ("approximate",)),
    "hardshrink": (F.hardshrink, ("lambd",)),
    "hardsigmoid": (_hardsigmoid, ()),
    "hardswish": (F.hardswish, ()),
    "hardtanh": (F.hardtanh, ("min_val", "max_val")),
    "identity": (_identity, ()),
    "leakyrelu": (F.leaky_relu, ("negative_slope",)),
    "logsigmoid": (F.logsigmoid, ()),
    "mish": (F.mish, ()),
    "relu": (F.relu, ()),
    "relu6": (F.relu6, ()),
    "selu": (F.selu, ()),
    "sigmoid": (torch.sigmoid, ()),
    "silu": (F.silu, ()),
    "softplus": (F.softplus, ("beta", "threshold")),
    "softshrink": (F.softshrink, ("lambd",)),
    "softsign": (F.softsign, ()),
    "swish": (F.silu, ()),
    "tanh": (torch.tanh, ()),
    "tanhshrink": (F.tanhshrink, ()),
    "threshold": (F.threshold, ("threshold", "value")),
}
_LEARNED = {"dice": (), "prelu": ("num_parameters", "init")}


def _init_nothing(key: Tensor, n: int, dtype: torch.dtype | None) -> Trees:
    del key, n, dtype
    return None, None


def _apply_function(
    function: Callable[[Tensor], Tensor],
    params: TensorDict | None,
    x: Tensor,
    state: TensorDict | None,
    *,
    train: bool = False,
    mask: Tensor | None = None,
) -> tuple[Tensor, TensorDict | None]:
    del params, train, mask
    return function(x), state


def _init_prelu(key: Tensor, n: int, dtype: torch.dtype | None, num_parameters: int = 1, init: float = 0.25) -> Trees:
    if num_parameters not in (1, n):
        fail(ConfigError, "PReLU num_parameters", got=num_parameters, expected=f"1 or the layer's width {n}")
    return tree({"weight": torch.full((num_parameters,), init, dtype=dtype, device=key.device)}), None


def _apply_prelu(
    params: TensorDict, x: Tensor, state: TensorDict | None, *, train: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, TensorDict | None]:
    del train, mask
    return torch.where(x > 0, x, params["weight"] * x), state


def _parse(spec: str) -> tuple[str, dict[str, Any]]:
    """The normalized name and the arguments, by name, of a spec."""
    try:
        node = ast.parse(spec.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        written = ast.unparse(call.func).removeprefix("torch.").removeprefix("nn.")
        positional = [ast.literal_eval(a) for a in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError) as error:
        fail(
            ConfigError,
            "Unknown activation method",
            got=repr(spec),
            expected="name or name(argument=literal)",
            fix=f"{error}",
        )
    name = written.lower().replace("_", "")
    if name not in _FUNCTIONS and name not in _LEARNED:
        fail(
            ConfigError,
            "Unknown activation method",
            got=repr(spec),
            expected=f"one of {sorted({*_FUNCTIONS, *_LEARNED})}",
        )
    allowed = _FUNCTIONS[name][1] if name in _FUNCTIONS else _LEARNED[name]
    named.pop("inplace", None)  # torch.nn's hint to overwrite the input; nothing here writes to its inputs
    arguments = dict(zip(allowed, positional, strict=False)) | named
    if len(arguments) < len(positional) + len(named) or not set(named) <= set(allowed):
        _refuse_arguments(spec, f"it takes {', '.join(allowed) or 'none'}, each once")
    return name, arguments


def _refuse_arguments(spec: str, why: str) -> NoReturn:
    fail(ConfigError, "Unknown activation method arguments", got=repr(spec), fix=why)


def parse_activation(spec: str | None) -> Activation:
    """The activation that a string names, as configs of TorchEasyRec write it.

    Args:
        spec: a class of ``torch.nn`` or its functional name, case and underscores ignored, with literal arguments;
            ``"Dice"``; ``""`` or None for the identity.

    Raises:
        ConfigError: an unknown name, or arguments that it does not take.

    >>> y, _ = parse_activation("nn.LeakyReLU(negative_slope=0.5)").apply(None, torch.tensor([-2.0, 3.0]), None)
    >>> y
    tensor([-1.,  3.])
    """
    if not spec:
        return Activation(_init_nothing, partial(_apply_function, _identity))
    name, arguments = _parse(spec)
    if name == "dice":
        activation = Activation(init_dice, dice)
    elif name == "prelu":
        activation = Activation(partial(_init_prelu, **arguments), _apply_prelu)
    else:
        function = partial(_FUNCTIONS[name][0], **arguments)
        activation = Activation(_init_nothing, partial(_apply_function, function))
    try:
        n = arguments.get("num_parameters", 1)
        params, state = activation.init(torch.zeros((), dtype=torch.int64), n, None)
        y, _ = activation.apply(params, torch.zeros(1, n), state)
        if not all(map(math.isfinite, y.flatten().tolist())):
            raise ValueError(f"of 0 it gives {y.item()}")
    except (TypeError, ValueError, RuntimeError) as error:
        _refuse_arguments(spec, str(error))
    return activation
