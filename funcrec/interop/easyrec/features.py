"""Feature configs: which are looked up and which are numbers, in tables of how many rows, of what width."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import cast

from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import NumberEmbedding
from funcrec.embedding.spec import Pooling
from funcrec.interop.easyrec.initial_laws import initializer
from funcrec.interop.easyrec.messages import Message
from funcrec.layers.autodis import AutoDis
from funcrec.layers.linear_number import LinearNumber

_ROWS_FIX = "set hash_bucket_size, num_buckets, vocab_list or vocab_dict"


@dataclass(frozen=True, kw_only=True)
class Feature:
    """What a feature is to a model.

    Attributes:
        name: ``<sequence>__<feature>`` inside a sequence feature.
        sparse: looked up; else numbers, ``width`` of them.
        sequence: one value a step of a history.
        table: name of its table, as the config shares it; ``rows`` and ``init`` describe it.
        dim: width of what a group sees.
        single: at most one id a row, or exactly one a step of a history.
        constraints: the message of its ``embedding_constraints``.
    """

    name: str
    sparse: bool
    sequence: bool
    dim: int
    width: int = 1
    table: str = ""
    rows: int = 0
    init: str = ""
    pooling: Pooling = "sum"
    single: bool = False
    trainable: bool = True
    weighted: bool = False
    number: NumberEmbedding | None = None
    constraints: Message | None = None

    @property
    def bags(self) -> bool:
        """Whether a step of the history holds several ids."""
        return self.sparse and self.sequence and not self.single


def _has(config: Message, field: str) -> bool:
    """Whether a field exists in this kind of feature and is set."""
    if field not in config.DESCRIPTOR.fields_by_name:
        return False
    value = getattr(config, field)
    return len(value) > 0 if hasattr(value, "__len__") and not isinstance(value, str) else config.HasField(field)


def _rows(config: Message, where: str) -> int:
    """Number of rows of a looked-up feature: the first of the schema's ways to say it."""
    for field in ("zch", "dynamicemb"):
        if _has(config, field):
            fix = f"tables here have a fixed number of rows: {_ROWS_FIX}"
            fail(ConfigError, f"{where}: {field} is not supported", fix=fix)
    if _has(config, "boundaries"):
        return len(config.boundaries) + 1
    for field in ("hash_bucket_size", "num_buckets"):
        if _has(config, field):
            return int(getattr(config, field))
    # Two more rows than words: the default value's, and the one of words outside the list.
    if _has(config, "vocab_list"):
        return len(config.vocab_list) + (0 if _has(config, "default_bucketize_value") else 2)
    if _has(config, "vocab_dict"):
        return max(config.vocab_dict.values()) + 1
    if _has(config, "vocab_file"):
        fail(ConfigError, f"{where}: number of rows", got="a vocab_file, which is not read", fix=_ROWS_FIX)
    what = f"{where} must set hash_bucket_size or num_buckets or vocab_list or vocab_dict"
    fail(ConfigError, what, got="none of them", fix="they say how many rows its table has")


def _number(config: Message, width: int, where: str) -> NumberEmbedding | None:
    kind = config.WhichOneof("dense_emb") if "dense_emb" in config.DESCRIPTOR.oneofs_by_name else None
    if kind is None:
        return None
    if kind == "mlp":
        return LinearNumber()
    if width != 1:
        what = f"{where}: dense embedding do not support value_dim > 1: autodis"
        fail(ConfigError, what, got=f"value_dim {width}", expected=1, fix="use mlp {}, or a feature a number")
    a = config.autodis
    return AutoDis(num_channels=a.num_channels, temperature=a.temperature, keep_prob=a.keep_prob)


def _is_sparse(kind: str, config: Message) -> bool:
    """Whether a feature is looked up."""
    return kind in ("id_feature", "combo_feature", "tokenize_feature", "bool_mask_feature") or any(
        _has(config, f)
        for f in ("boundaries", "hash_bucket_size", "num_buckets", "vocab_list", "vocab_dict", "vocab_file", "zch")
    )


def read_feature(kind: str, config: Message, sequence: str | None) -> Feature:
    """One feature; ``sequence``: the sequence feature that it is part of, ``""`` for one that stands alone."""
    name = f"{sequence}__{config.feature_name}" if sequence else config.feature_name
    where = f"{config.DESCRIPTOR.name}[{name}]"
    is_sequence = sequence is not None
    sparse = _is_sparse(kind, config)
    if config.data_type != "FP32":
        fail(ConfigError, f"{where}: data_type", got=repr(config.data_type), expected="'FP32'")
    if config.pooling.lower() not in ("sum", "mean"):
        fail(ConfigError, f"{where}: available pooling type is SUM | MEAN", got=repr(config.pooling))
    set_dim = _has(config, "value_dim")
    value_dim = int(config.value_dim) if set_dim else (1 if is_sequence or not sparse else 0)
    if not sparse:
        width = max(value_dim, 1)
        number = _number(config, width, where)
        if number is not None and config.embedding_dim < 1:
            fail(ConfigError, f"{where}: embedding_dim", got=0, expected="a positive number, for its dense embedding")
        dim = int(config.embedding_dim) if number is not None else width
        return Feature(name=name, sparse=False, sequence=is_sequence, dim=dim, width=width, number=number)
    if config.embedding_dim < 1:
        fail(ConfigError, f"{where}: embedding_dim should be greater than 0", got=config.embedding_dim)
    initializer(config.init_fn, where)
    return Feature(
        name=name,
        sparse=True,
        sequence=is_sequence,
        dim=int(config.embedding_dim),
        table=config.embedding_name or f"{name}_emb",
        rows=_rows(config, where),
        init=config.init_fn,
        pooling=cast(Pooling, config.pooling.lower()),
        single=value_dim == 1,
        trainable=config.trainable,
        weighted=bool(getattr(config, "weighted", False)),
        constraints=config.embedding_constraints if config.HasField("embedding_constraints") else None,
    )


def read_features(configs: list[Message], used: Set[str]) -> dict[str, Feature]:
    """All features by name, those inside sequence features as ``<sequence>__<feature>``.

    Raises:
        ConfigError: a repeated name, or a feature among the ``used`` that cannot be used as it is described.
    """
    found: list[Feature] = []

    def add(kind: str, config: Message, sequence: str | None) -> None:
        try:
            found.append(read_feature(kind, config, sequence))
        except ConfigError:
            name = f"{sequence}__{config.feature_name}" if sequence else config.feature_name
            if name in used:
                raise
            sparse = _is_sparse(kind, config)
            found.append(Feature(name=name, sparse=sparse, sequence=sequence is not None, dim=0))

    for config in configs:
        kind = config.WhichOneof("feature")
        if kind is None:
            fail(ConfigError, "feature_configs", got="an empty entry", expected="one kind of feature in each")
        body = getattr(config, kind)
        if kind == "sequence_feature":
            for part in body.features:
                inner = part.WhichOneof("feature")
                if inner is None:
                    fail(ConfigError, f"sequence_feature {body.sequence_name!r}", got="an empty entry in features")
                add(inner, getattr(part, inner), body.sequence_name)
        elif kind.startswith("sequence_"):
            add(kind.removeprefix("sequence_"), body, "")
        else:
            add(kind, body, None)
    names = [f.name for f in found]
    repeated = sorted({n for n in names if names.count(n) > 1})
    if repeated:
        fail(ConfigError, "feature_configs: repeated feature names", got=repeated, fix="name each feature once")
    return {f.name: f for f in found}
