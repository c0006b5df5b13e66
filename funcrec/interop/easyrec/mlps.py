"""MLP messages."""

from __future__ import annotations

from funcrec.core.errors import ConfigError, fail
from funcrec.interop.easyrec.messages import Message, shortest
from funcrec.layers.mlp import MLPConfig


def mlp_config(parent: Message, field: str, where: str) -> MLPConfig:
    """The MLP in a field of a message.

    Raises:
        ConfigError: it is left out, has no layers, or describes no MLP.
    """
    what = f"{where}.{field}"
    if not parent.HasField(field):
        fix = f"this model needs it: {field} {{ hidden_units: [...] }}"
        fail(ConfigError, f"{what} is not set", fix=fix)
    message = getattr(parent, field)
    units, rates = tuple(message.hidden_units), tuple(shortest(r) for r in message.dropout_ratio)
    if not units:
        fail(ConfigError, f"{what}.hidden_units is empty", expected="one positive integer a layer")
    if len(rates) > 1 and len(rates) != len(units):
        seen = f"but got {len(rates)} vs {len(units)}"
        fail(ConfigError, f"{what}: length of dropout_ratio and hidden_units must be same, {seen}", fix="give one rate")
    try:
        return MLPConfig(
            hidden_units=units,
            activation=message.activation,
            dropout=rates,
            use_bn=message.use_bn,
            use_ln=message.use_ln,
            bias=message.bias,
        )
    except ConfigError as e:
        raise ConfigError(f"{what}: {e}") from None


def optional_mlp(parent: Message, field: str, where: str) -> MLPConfig | None:
    """The MLP in a field, None where it is left out."""
    return mlp_config(parent, field, where) if parent.HasField(field) else None
