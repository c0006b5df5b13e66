"""What every model with a wide part asks of it: embeddings, to be summed over fields and components."""

from __future__ import annotations

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Group


def check_wide(model: str, wide: Group) -> None:
    """Raise ConfigError if raw numbers are in the wide group: a sum has no weight for them."""
    raw = [f.name for f in wide.dense if f.number is None]
    if raw:
        what = f"{model}: dense feature {raw} should not be configured in wide group"
        fail(ConfigError, what, fix="bucketise it, or leave it to the deep group")
