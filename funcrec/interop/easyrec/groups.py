"""Feature groups: their fields, histories, encoders, and the lookups behind them."""

from __future__ import annotations

from dataclasses import dataclass, field

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Encoded, Field, Group, Sequence
from funcrec.embedding.spec import EmbeddingGroup, EmbeddingSpec, Lookup, SequenceGroup
from funcrec.interop.easyrec.encoders import encoder
from funcrec.interop.easyrec.features import Feature
from funcrec.interop.easyrec.messages import Message
from funcrec.interop.easyrec.tables import Tables

DEEP, WIDE, SEQUENCE, JAGGED_SEQUENCE = range(4)


@dataclass
class Groups:
    """The groups of a config, in their order.

    Attributes:
        pooled: DEEP and WIDE groups by name.
        sequences: SEQUENCE groups by name.
        lookups: of every pooled group, query and history, by its name in ``emb``.
    """

    features: dict[str, Feature]
    tables: Tables
    pooled: dict[str, Group] = field(default_factory=dict)
    sequences: dict[str, Sequence] = field(default_factory=dict)
    lookups: dict[str, tuple[Lookup, ...]] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)

    def spec(self, used: tuple[Group, ...], also: tuple[Sequence, ...] = ()) -> EmbeddingSpec:
        """Every table, and the lookups of these groups and histories."""
        histories = tuple(dict.fromkeys((*(s for g in used for s in g.sequences), *also)))
        pooled = [g.name for g in used if g.embedded]
        pooled += [s.query_group.name for s in histories if s.query_group is not None and s.query_group.embedded]
        return EmbeddingSpec(
            tables=tuple(self.tables.made.values()),
            groups=tuple(EmbeddingGroup(name=n, lookups=self.lookups[n]) for n in dict.fromkeys(pooled)),
            sequences=tuple(SequenceGroup(name=s.name, lookups=self.lookups[s.name]) for s in histories if s.embedded),
        )


def _inputs(config: Message, taken: set[str]) -> list[tuple[str, Message]]:
    """(name, sequence group) of a group, checked as the original checks them; ``taken``: names of earlier ones."""
    group, nested, encoders = config.group_name, list(config.sequence_groups), list(config.sequence_encoders)
    if config.group_type != DEEP:
        if nested or encoders:
            what = "group_type is not DEEP, sequence_groups and sequence_encoders must configured in DEEP"
            fail(ConfigError, f"{group} group {what}", fix="make the group DEEP, or move them to one that is")
        return []
    if nested and not encoders:
        what = f"{group} group has sequence_groups, but no sequence_encoders"
        fail(ConfigError, what, fix="add an encoder for each, or remove them")
    if encoders and not nested:
        what = f"{group} group has sequence_encoders, but no sequence_groups"
        fail(ConfigError, what, fix="add the sequence_groups that they read")
    if len(nested) > 1 and any(not s.HasField("group_name") for s in nested):
        what = f"{group} has many sequence_groups, every sequence_group must has group_name"
        fail(ConfigError, what, fix="set group_name in each")
    named = [(s.group_name if s.HasField("group_name") else group, s) for s in nested]
    for name, _ in named:
        if name in taken:
            fail(ConfigError, f"has repeat sequences groups_name: {name}", fix="give each sequence group another name")
        taken.add(name)
    return named


def _encoder_input(config: Message, names: list[str], entry: Message) -> str:
    group, kind = config.group_name, entry.WhichOneof("seq_module")
    if kind is None:
        fail(ConfigError, f"{group}: sequence_encoders", got="an empty entry", expected="one kind of encoder in each")
    c = getattr(entry, kind)
    name = c.input if c.HasField("input") else (names[0] if len(names) == 1 else None)
    if name is None:
        what = f"{group} group has multi sequence_groups, so sequence_encoders must has input"
        fail(ConfigError, what, expected=f"input: one of {names}")
    if name not in names:
        fail(ConfigError, f"{group} sequence_encoder input {name} not in sequence_groups", expected=f"one of {names}")
    return name


def _sequence(made: Groups, name: str, config: Message, suffix: str) -> Sequence:
    """The history and query of a sequence group: keys are its sequence features, the query all others."""
    what = f"sequence group {name!r}"
    query: list[Field] = []
    keys: list[Field] = []
    lookups: dict[bool, list[Lookup]] = {True: [], False: []}
    for feature_name in config.feature_names:
        f = _feature(made, name, feature_name)
        if f.number is not None:
            fix = "sequence groups read raw numbers: use a second raw_feature without autodis or mlp"
            fail(ConfigError, f"{what}: feature {f.name!r}", got="numbers with a dense embedding", fix=fix)
        (keys if f.sequence else query).append(Field(f.name, f.dim, dense=not f.sparse))
        if f.sparse:
            lookups[f.sequence].append(made.tables.lookup(f, suffix, sequence=True))
    if not keys:
        fix = "list the features of a sequence_feature as <sequence_name>__<feature_name>"
        fail(ConfigError, f"{what}: no sequence features", got=list(config.feature_names), fix=fix)
    sequence = Sequence(f"seq:{name}", tuple(query), tuple(keys))
    made.lookups[sequence.name] = tuple(lookups[True])
    if sequence.query_group is not None:
        made.lookups[sequence.query_group.name] = tuple(lookups[False])
    return sequence


def _feature(made: Groups, group: str, name: str) -> Feature:
    if name not in made.features:
        expected = f"one of {sorted(made.features)}"
        fail(ConfigError, f"group {group!r}: feature {name!r} is not in feature_configs", expected=expected)
    return made.features[name]


def _fields(made: Groups, config: Message, wide_dim: int, wide_init: str) -> list[Field]:
    group, wide = config.group_name, config.group_type == WIDE
    fields: list[Field] = []
    lookups: list[Lookup] = []
    for name in config.feature_names:
        f = _feature(made, group, name)
        if f.sequence:
            fix = "put it into a SEQUENCE group, or into sequence_groups with an encoder"
            what = f"group {group!r}: sequence feature {name!r} in a {'WIDE' if wide else 'DEEP'} group"
            fail(ConfigError, what, fix=fix)
        if not f.sparse:
            if wide:
                what = f"dense feature [{name}] should not be configured in wide group"
                fail(ConfigError, what, fix="bucketise it, or leave it to the deep group")
            fields.append(Field(name, f.dim, dense=True, number=f.number, width=f.width))
            continue
        suffix = config.embedding_name_suffix
        own = {"wide_dim": wide_dim, "wide_init": wide_init} if wide else {}
        lookups.append(made.tables.lookup(f, suffix, sequence=False, **own))  # type: ignore[arg-type]
        fields.append(Field(name, wide_dim if wide else f.dim))
    made.lookups[group] = tuple(lookups)
    return fields


def read_groups(
    configs: list[Message], features: dict[str, Feature], *, wide_dim: int, wide_init: str, variational: bool
) -> Groups:
    """All groups of a model config.

    Raises:
        ConfigError: unknown features, numbers in a wide group, sequence groups and encoders that do not fit.
    """
    made = Groups(features, Tables())
    taken: set[str] = set()
    for config in configs:
        name = config.group_name
        if name in made.order:
            fail(ConfigError, "feature_groups: repeated group_name", got=repr(name), fix="name each group once")
        made.order.append(name)
        if config.group_type == JAGGED_SEQUENCE:
            fail(ConfigError, f"group {name!r}: group_type JAGGED_SEQUENCE", expected="DEEP, WIDE or SEQUENCE")
        named = _inputs(config, taken)
        if config.group_type == SEQUENCE:
            if name in taken:
                fail(ConfigError, f"has repeat sequences groups_name: {name}", fix="rename one of them")
            taken.add(name)
            made.sequences[name] = _sequence(made, name, config, config.embedding_name_suffix)
            continue
        fields = _fields(made, config, wide_dim, wide_init)
        histories = {
            n: _sequence(made, n, s, s.embedding_name_suffix or config.embedding_name_suffix) for n, s in named
        }
        encoded: list[Encoded] = []
        for entry in config.sequence_encoders:
            source = _encoder_input(config, list(histories), entry)
            encoded.append(Encoded(histories[source], encoder(entry, f"{name} encoder {len(encoded)}")))
        for n, history in histories.items():
            if not any(e.sequence == history for e in encoded):
                fail(ConfigError, f"{name} sequence_groups {n} not has seq_encoder", fix="add an encoder that reads it")
        for e in encoded:
            _ = e.dim  # a query that is longer than the keys is found here
        several = len(fields) + len(encoded) > 1
        made.pooled[name] = Group(name, tuple(fields), tuple(encoded), variational=variational and several)
    return made
