"""Schemas and layouts of well-known public data sets, as they come from their publishers.

    recipe = frappe()
    source = recipe.source("train.csv.gz")
    vocabularies = learn(recipe.schema, source)
    train = load(recipe.schema, source, vocabularies)

- Criteo display advertising (Kaggle 2014), ``train.txt``: https://www.kaggle.com/c/criteo-display-ad-challenge
- Avazu click-through rate (Kaggle 2014), ``train.csv``: https://www.kaggle.com/c/avazu-ctr-prediction
- Frappe, the ``Frappe_x1`` split of BARS: https://huggingface.co/datasets/reczoo/Frappe_x1
- Adult census income (UCI), ``adult.data`` and ``adult.test``: https://archive.ics.uci.edu/dataset/2/adult
- Amazon reviews (2014), the category Toys and Games, from which histories are made:
  https://jmcauley.ucsd.edu/data/amazon/
- MovieLens-100K as RecBole's atomic files: https://recbole.io/dataset_list.html

Data sets of several files are read by their folder: ``din_toys_and_games().source(folder, split="test")``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal, NamedTuple

from funcrec.core.errors import ConfigError, fail
from funcrec.data.columns import Bucketised, Categorical, Numeric, Range, Vocabulary
from funcrec.data.delimited import Csv
from funcrec.data.join import Join
from funcrec.data.parquet import Parquet
from funcrec.data.schema import Column, Schema
from funcrec.data.source import Format, Source
from funcrec.data.targets import Label, Time


class Recipe(NamedTuple):
    """What the columns mean, and how the files are laid out.

    ``joins``: side files, which lie beside the rows. ``files``: by split, what its file is called in the folder.
    """

    schema: Schema
    format: Format
    joins: tuple[Join, ...] = ()
    files: Mapping[str, str] = MappingProxyType({})

    def source(self, *paths: str | os.PathLike[str], split: str = "train") -> Source:
        """The rows of these files; of a folder, the file of that ``split`` where ``files`` name any, else all files.

        Raises:
            ConfigError: a folder and a split that it has no file for.
        """
        if not paths:
            fail(ConfigError, "source: paths", got="none", expected="at least one file, directory or pattern")
        found = [self._file(os.fspath(p), split) for p in paths]
        beside = os.path.dirname(found[0])
        joins = tuple(replace(j, path=os.path.join(beside, j.path)) for j in self.joins)
        return Source(paths=tuple(found), format=self.format, joins=joins)

    def _file(self, path: str, split: str) -> str:
        if not (self.files and os.path.isdir(path)):
            return path
        if split not in self.files:
            fail(ConfigError, f"split {split!r} of {path}", got="no such file", expected=f"one of {list(self.files)}")
        return os.path.join(path, self.files[split])


def criteo(*, integers: Literal["categorical", "dense"] = "categorical", min_count: int = 10) -> Recipe:
    """Label, counts I1..I13, hashed categories C1..C26; tab separated, no header, empty means missing.

    ``integers="categorical"`` makes ids of floor(ln(x)^2), a missing count being a token of its own; ``"dense"`` makes
    ln(1 + max(x, 0)) with 0 for a missing count. Tokens seen fewer than ``min_count`` times share the unknown row.
    """
    if integers not in ("categorical", "dense"):
        fail(ConfigError, "criteo: integers", got=repr(integers), expected="'categorical' or 'dense'")
    counts = [f"I{i}" for i in range(1, 14)]
    categories = [f"C{i}" for i in range(1, 27)]
    encoding = Vocabulary(min_count=min_count)
    columns: list[Column] = []
    for name in counts:
        if integers == "categorical":
            columns.append(Categorical(name=name, derive="log_square", encoding=encoding))
        else:
            columns.append(Numeric(name=name, transform="log1p_clip", missing=0.0))
    columns += [Categorical(name=name, encoding=encoding) for name in categories]
    layout = Csv(delimiter="\t", names=("label", *counts, *categories), quote=None)
    return Recipe(Schema(columns=tuple(columns), label=Label(name="label")), layout)


def avazu(*, min_count: int = 2) -> Recipe:
    """``click``, the hour as hour of day, weekday and weekend, and 21 categories; ``id`` is dropped.

    Files with and without the header are told apart by their first line.
    """
    middle = ["banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"]
    device = ["device_id", "device_ip", "device_model", "device_type", "device_conn_type"]
    categories = ["C1", *middle, *device, *(f"C{i}" for i in range(14, 22))]
    encoding = Vocabulary(min_count=min_count)
    columns = [
        Categorical(name="hour", derive="yymmddhh_hour", encoding=encoding),
        Categorical(name="weekday", source="hour", derive="yymmddhh_weekday", encoding=encoding),
        Categorical(name="weekend", source="hour", derive="yymmddhh_weekend", encoding=encoding),
        *(Categorical(name=name, encoding=encoding) for name in categories),
    ]
    schema = Schema(columns=tuple(columns), label=Label(name="click"), ignore=("id",))
    return Recipe(schema, Csv(names=("id", "click", "hour", *categories), header="detect"))


def frappe() -> Recipe:
    """Label and ten categories, with a header.

    The file numbers all categories through (0..5381); here each field has a vocabulary of its own, so the tables hold
    the published 5,382 rows and one unknown row a field.
    """
    context = ["daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city"]
    columns = tuple(Categorical(name=name) for name in ("user", "item", *context))
    return Recipe(Schema(columns=columns, label=Label(name="label")), Csv())


def adult(*, quantiles: int = 10, dense: bool = False, min_count: int = 1) -> Recipe:
    """Income over 50K from 6 numbers and 8 categories; ", " separated, no header, ``?`` means missing.

    The numbers are cut at learnt quantiles and, with ``dense``, standardised as well (fields named ``age_dense``, …).
    The test file's first line is a note: read it with ``BadRows(limit=1)``.
    """
    names = (
        "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation", "relationship",
        "race", "sex", "capital_gain", "capital_loss", "hours_per_week", "native_country",
    )  # fmt: skip
    numbers = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
    columns: list[Column] = []
    for name in names:
        if name in numbers:
            columns.append(Bucketised(name=name, quantiles=quantiles))
        else:
            columns.append(Categorical(name=name, encoding=Vocabulary(min_count=min_count)))
    if dense:
        columns += [Numeric(name=f"{n}_dense", source=n, transform="standardize", missing="mean") for n in numbers]
    # The official test file ends its labels with a full stop.
    label = Label(name="income", positive=(">50K", ">50K."), negative=("<=50K", "<=50K."))
    schema = Schema(columns=tuple(columns), label=label, missing=("", "?"))
    return Recipe(schema, Csv(names=(*names, "income"), strip=True))


def din_toys_and_games(*, max_length: int = 50) -> Recipe:
    """Does a user review this toy next? Histories and drawn negatives after the protocol of DIN.

    ``train.parquet`` and ``test.parquet`` hold ``label``, ``user``, ``item`` and the list ``hist_items``, the items
    before, the latest last; ``items.parquet`` holds ``item`` and the list ``attrs``, its brand and categories.
    ``hist_items`` shares the item's ids, one a step; ``hist_attrs`` shares those of ``item_attrs``, one bag a step. Ids
    are the file's own, from 1. The last ``max_length`` steps are read.
    """
    items, attributes = Range(rows=11_925), Range(rows=1_028)
    columns = (
        Categorical(name="user", encoding=Range(rows=19_413)),
        Categorical(name="item", encoding=items),
        Categorical(name="item_attrs", encoding=attributes, bag=True),
        Categorical(name="hist_items", encoding=items, sequence=True, max_length=max_length, shares="item"),
        Categorical(
            name="hist_attrs", encoding=attributes, sequence=True, bag=True, max_length=max_length, shares="item_attrs"
        ),
    )
    side = Join(path="items.parquet", key="item", on="item", columns=(("item_attrs", "attrs"),), format=Parquet())
    joins = (side, replace(side, on="hist_items", columns=(("hist_attrs", "attrs"),)))
    files = {"train": "train.parquet", "test": "test.parquet"}
    return Recipe(Schema(columns=columns, label=Label(name="label")), Parquet(), joins, files)


def ml_100k() -> Recipe:
    """MovieLens-100K: is a rating at least 4? Each with its time; cut by it with :meth:`InMemory.split_time`.

    ``*.inter`` holds ratings, ``*.user`` and ``*.item`` the side features of both; plain or compressed, tab separated,
    columns named ``user_id:token`` and so on. User side: ``user_id``, ``age`` (in MovieLens-1M's seven groups),
    ``gender``, ``occupation``, ``zip_code``. Item side: ``item_id``, ``release_year``, ``classes`` (a bag of genres).
    User and item ids are the files' own, from 1.
    """
    columns: tuple[Column, ...] = (
        Categorical(name="user_id", source="user_id:token", encoding=Range(rows=944)),
        Bucketised(name="age", source="age:token", boundaries=(18, 25, 35, 45, 50, 56)),
        *(Categorical(name=name, source=f"{name}:token") for name in ("gender", "occupation", "zip_code")),
        Categorical(name="item_id", source="item_id:token", encoding=Range(rows=1_683)),
        Categorical(name="release_year", source="release_year:token"),
        Categorical(name="classes", source="class:token_seq", separator=" "),
    )
    layout = Csv(delimiter="\t", quote=None)
    of_user = tuple(f"{name}:token" for name in ("age", "gender", "occupation", "zip_code"))
    of_item = ("release_year:token", "class:token_seq")
    joins = (
        Join(path="*.user*", key="user_id:token", on="user_id:token", columns=of_user, format=layout),
        Join(path="*.item*", key="item_id:token", on="item_id:token", columns=of_item, format=layout),
    )
    label, time = Label(name="rating:float", threshold=4), Time(name="timestamp:float")
    return Recipe(Schema(columns=columns, label=label, time=time), layout, joins, {"train": "*.inter*"})
