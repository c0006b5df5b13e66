"""Embedding tables behind three verbs: specs, lookups, and the local stores."""

from funcrec.embedding.dense import dense_store
from funcrec.embedding.managed import managed
from funcrec.embedding.resize import resized
from funcrec.embedding.rowwise import rowwise_store
from funcrec.embedding.spec import EmbeddingGroup, EmbeddingSpec, Lookup, SequenceGroup, Table, spec_for
from funcrec.embedding.store import Store, Tables
from funcrec.embedding.zch import ZchConfig

__all__ = [
    "EmbeddingGroup",
    "EmbeddingSpec",
    "Lookup",
    "SequenceGroup",
    "Store",
    "Table",
    "Tables",
    "ZchConfig",
    "dense_store",
    "managed",
    "resized",
    "rowwise_store",
    "spec_for",
]
