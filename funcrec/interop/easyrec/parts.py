"""What a model is made of, before it is one."""

from __future__ import annotations

from dataclasses import dataclass

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Group
from funcrec.core.model import Model
from funcrec.interop.easyrec.groups import Groups
from funcrec.interop.easyrec.messages import Message


@dataclass(frozen=True)
class Parts:
    """What a model is made of: its kind, message, groups, and the width of its logits."""

    kind: str
    config: Message
    groups: Groups
    n_classes: int

    def group(self, name: str) -> Group:
        if name in self.groups.sequences:
            fix = "make the group DEEP, with its histories in sequence_groups and an encoder for each"
            what = f"{self.kind}: group {name!r} is of group_type SEQUENCE"
            fail(ConfigError, what, expected="a DEEP or WIDE group", fix=fix)
        if name not in self.groups.pooled:
            seen = f"groups {self.groups.order}"
            fix = f"this model reads a group of that name, DEEP or WIDE, with group_name: {name!r}"
            fail(ConfigError, f"{self.kind}: no group {name!r}", got=seen, fix=fix)
        return self.groups.pooled[name]

    def first(self) -> Group:
        """The one group that first-group models read; further groups are looked up there and ignored."""
        if not self.groups.order:
            fail(ConfigError, f"{self.kind}: feature_groups", got="none", expected="at least one")
        return self.group(self.groups.order[0])

    def need(self, field: str) -> Message:
        if not self.config.HasField(field):
            fail(ConfigError, f"{self.kind}.{field} is not set", fix="this model needs it")
        return getattr(self.config, field)


def unused_groups(groups: Groups, model: Model) -> tuple[Group, ...]:
    """The groups that the model does not read: the original has weights for them all the same."""
    used = {g.name for g in model.groups}
    return tuple(g for name, g in groups.pooled.items() if name not in used)
