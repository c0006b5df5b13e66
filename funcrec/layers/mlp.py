"""The multi-layer perceptron: Linear → (BatchNorm | LayerNorm) → activation → dropout, the last layer included."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import ConfigError, ShapeError, fail
from funcrec.core.init import Initializer
from funcrec.core.random import fold_in
from funcrec.core.tree import count, tree
from funcrec.layers.activation import Activation, parse_activation
from funcrec.layers.batch_norm import batch_norm, init_batch_norm
from funcrec.layers.dropout import check_rate, dropout
from funcrec.layers.linear import init_linear, linear
from funcrec.layers.norm import init_layer_norm, layer_norm

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Shape and options of an MLP; every option holds for every layer, the last included.

    Args:
        hidden_units: output width of each layer.
        activation: see :func:`~funcrec.layers.activation.parse_activation`.
        dropout: one rate for all layers, or one a layer; ``()`` is 0.
        use_bn: batch normalization; the linear maps then have no bias, whatever ``bias`` says.
        use_ln: layer normalization; the linear maps keep their bias.
        weight, bias_init: initial laws of the linear maps; None for U(±1/√fan_in).

    Raises:
        ConfigError: an option, or a combination of them, that describes no MLP.
    """

    hidden_units: tuple[int, ...]
    activation: str | None = "nn.ReLU"
    dropout: float | tuple[float, ...] = 0.0
    use_bn: bool = False
    use_ln: bool = False
    bias: bool = True
    weight: Initializer | None = None
    bias_init: Initializer | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_units", tuple(self.hidden_units))
        if not isinstance(self.dropout, int | float):
            object.__setattr__(self, "dropout", tuple(self.dropout))
        if not self.hidden_units or any(not isinstance(h, int) or h < 1 for h in self.hidden_units):
            fail(ConfigError, "MLP hidden_units", got=self.hidden_units, expected="one positive integer a layer")
        if self.use_bn and self.use_ln:
            fail(ConfigError, "Could not use_bn and use_ln at the same time", fix="choose one of them")
        if len(self.dropout_rates) != len(self.hidden_units):
            fail(
                ConfigError,
                "MLP dropout",
                got=f"{len(self.dropout_rates)} rates",
                expected=f"one, or one for each of {len(self.hidden_units)} layers",
            )
        for rate in self.dropout_rates:
            check_rate(rate)
        _ = self.activation_fn  # parsed now: here the error belongs, and a traced call could not parse

    @property
    def output_dim(self) -> int:
        return self.hidden_units[-1]

    @cached_property
    def dropout_rates(self) -> tuple[float, ...]:
        """The rate of each layer."""
        rates = (self.dropout,) if isinstance(self.dropout, int | float) else self.dropout or (0.0,)
        return rates * len(self.hidden_units) if len(rates) == 1 else rates

    @cached_property
    def activation_fn(self) -> Activation:
        return parse_activation(self.activation)


def init_mlp(
    key: Tensor, n_in: int, config: MLPConfig, dtype: torch.dtype | None = None
) -> tuple[TensorDict, TensorDict]:
    """Parameters and state of :func:`mlp`, by layer number.

    Returns:
        Params ``{"0": {"linear", "bn" or "ln", "activation"}, "1": …}`` and state ``{"0": {"bn", "activation"}, …}``,
        each entry only where there is something to hold.
    """
    params: dict[str, TensorDict] = {}
    state: dict[str, TensorDict] = {}
    for i, n_out in enumerate(config.hidden_units):
        name = str(i)
        layer_key = fold_in(key, name)
        entry: dict[str, TensorDict | None] = {
            "linear": init_linear(
                fold_in(layer_key, "linear"),
                n_in,
                n_out,
                bias=config.bias and not config.use_bn,
                weight=config.weight,
                bias_init=config.bias_init,
                dtype=dtype,
            )
        }
        kept: dict[str, TensorDict | None] = {}
        if config.use_bn:
            entry["bn"], kept["bn"] = init_batch_norm(n_out, dtype=dtype, device=key.device)
        elif config.use_ln:
            entry["ln"] = init_layer_norm(n_out, dtype=dtype, device=key.device)
        entry["activation"], kept["activation"] = config.activation_fn.init(
            fold_in(layer_key, "activation"), n_out, dtype
        )
        params[name] = tree({k: v for k, v in entry.items() if v is not None})
        if any(v is not None for v in kept.values()):
            state[name] = tree({k: v for k, v in kept.items() if v is not None})
        n_in = n_out
    return tree(params), tree(state)


def _layer(
    params: TensorDict, x: Tensor, state: TensorDict | None, config: MLPConfig, train: bool, mask: Tensor | None
) -> tuple[Tensor, dict[str, TensorDict]]:
    """One layer between its linear map and its dropout, and the entries of its new state."""
    moved = {}
    if config.use_bn:
        if state is None:
            fail(ShapeError, "mlp: no running statistics in the state", fix="pass the state that init_mlp returned")
        x, moved["bn"] = batch_norm(params["bn"], x, state["bn"], train=train, mask=mask)
    elif config.use_ln:
        x = layer_norm(params["ln"], x)
    kept = None if state is None else state.get("activation", None)
    x, kept = config.activation_fn.apply(params.get("activation", None), x, kept, train=train, mask=mask)
    if kept is not None:
        moved["activation"] = kept
    return x, moved


def mlp_hidden(
    params: TensorDict,
    x: Float[Tensor, "... n_in"],
    state: TensorDict,
    config: MLPConfig,
    *,
    key: Tensor | None = None,
    train: bool = False,
    mask: Bool[Tensor, "*rows"] | None = None,
    projected: bool = False,
) -> tuple[list[Float[Tensor, "... _"]], TensorDict]:
    """The output of every layer, after its dropout, and the new state: :func:`mlp` is the last of them."""
    hidden = []
    moved = {}
    for i, rate in enumerate(config.dropout_rates):
        name = str(i)
        if i > 0 or not projected:
            x = linear(params[name]["linear"], x)
        x, entries = _layer(params[name], x, state.get(name, None), config, train, mask)
        layer_key = fold_in(key, name) if train and rate and key is not None else None
        x = dropout(x, rate, key=layer_key, train=train)
        hidden.append(x)
        if entries:
            moved[name] = entries
    return hidden, tree(moved) if train else state


def mlp(
    params: TensorDict,
    x: Float[Tensor, "... n_in"],
    state: TensorDict,
    config: MLPConfig,
    *,
    key: Tensor | None = None,
    train: bool = False,
    mask: Bool[Tensor, "*rows"] | None = None,
    projected: bool = False,
) -> tuple[Float[Tensor, "... n_out"], TensorDict]:
    """``x ← dropout(activation(norm(x Wᵀ + b)))`` for each layer, the last included: a head is a linear of its own.

    Args:
        mask: which rows are real, ``[...]``: only these count in batch statistics. None: all of them.
        projected: x is ``x Wᵀ + b`` of the first layer already; attention computes that map in parts.

    Shape: x ``[..., n_in]``, returns ``[..., output_dim]`` and the new state.

    Raises:
        KeyMissingError: training with dropout and no ``key``.
        ShapeError: another width than the parameters were made for, or batch normalization in training of one row.
    """
    hidden, state = mlp_hidden(params, x, state, config, key=key, train=train, mask=mask, projected=projected)
    return hidden[-1], state


def mlp_parameter_count(n_in: int, config: MLPConfig) -> int:
    """The number of scalars in the parameters of :func:`init_mlp`, without making them."""
    total = 0
    for n_out in config.hidden_units:
        has_bias = config.bias and not config.use_bn
        learned, _ = config.activation_fn.init(torch.zeros((), dtype=torch.int64), n_out, None)
        total += n_in * n_out + has_bias * n_out + (config.use_bn or config.use_ln) * 2 * n_out
        total += 0 if learned is None else count(learned)
        n_in = n_out
    return total
