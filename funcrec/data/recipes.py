"""Schemas and layouts of well-known public data sets, as they come from their publishers.

    recipe = frappe()
    source = recipe.source("train.csv.gz")
    vocabularies = learn(recipe.schema, source)
    train = load(recipe.schema, source, vocabularies)

- Criteo display advertising (Kaggle 2014), ``train.txt``: https://www.kaggle.com/c/criteo-display-ad-challenge
- Avazu click-through rate (Kaggle 2014), ``train.csv``: https://www.kaggle.com/c/avazu-ctr-prediction
- Frappe, the ``Frappe_x1`` split of BARS: https://huggingface.co/datasets/reczoo/Frappe_x1
- Adult census income (UCI), ``adult.data`` and ``adult.test``: https://archive.ics.uci.edu/dataset/2/adult
"""

from __future__ import annotations

import os
from typing import Literal, NamedTuple

from funcrec.core.errors import ConfigError, fail
from funcrec.data.columns import Bucketised, Categorical, Numeric, Vocabulary
from funcrec.data.delimited import Csv
from funcrec.data.schema import Column, Schema
from funcrec.data.source import Format, Source
from funcrec.data.targets import Label


class Recipe(NamedTuple):
    """What the columns mean, and how the files are laid out."""

    schema: Schema
    format: Format

    def source(self, *paths: str | os.PathLike[str]) -> Source:
        return Source(paths=tuple(os.fspath(p) for p in paths), format=self.format)


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
