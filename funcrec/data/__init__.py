"""Tabular files to batches: schema, readers, vocabularies, datasets in memory and as streams, planted test data."""

try:
    import pyarrow  # noqa: F401
except ImportError as error:
    raise ImportError("funcrec.data reads files with pyarrow: pip install funcrec[data]") from error

from funcrec.data.chunk import BadRows
from funcrec.data.columns import Bucketised, Categorical, Hash, Numeric, Range, Vocabulary
from funcrec.data.delimited import Csv
from funcrec.data.join import Join
from funcrec.data.learn import learn
from funcrec.data.libsvm import Libsvm
from funcrec.data.memory import InMemory, load
from funcrec.data.parquet import Parquet
from funcrec.data.recipes import Recipe, adult, avazu, criteo, din_toys_and_games, frappe, ml_100k
from funcrec.data.schema import Fields, Schema
from funcrec.data.source import Source
from funcrec.data.stream import Stream
from funcrec.data.synthetic import Planted, planted
from funcrec.data.targets import Label, Time, Weight
from funcrec.data.vocabulary import Moments, Vocabularies

__all__ = [
    "BadRows",
    "Bucketised",
    "Categorical",
    "Csv",
    "Fields",
    "Hash",
    "InMemory",
    "Join",
    "Label",
    "Libsvm",
    "Moments",
    "Numeric",
    "Parquet",
    "Planted",
    "Range",
    "Recipe",
    "Schema",
    "Source",
    "Stream",
    "Time",
    "Vocabularies",
    "Vocabulary",
    "Weight",
    "adult",
    "avazu",
    "criteo",
    "din_toys_and_games",
    "frappe",
    "learn",
    "load",
    "ml_100k",
    "planted",
]
