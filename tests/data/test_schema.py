"""The schema: a value with a strict JSON form, that knows what a file has to look like."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError, DataError
from funcrec.data import (
    Bucketised,
    Categorical,
    Hash,
    Label,
    Numeric,
    Range,
    Schema,
    Time,
    Vocabularies,
    Vocabulary,
    Weight,
)

encodings = st.one_of(
    st.builds(Vocabulary, min_count=st.integers(1, 9)),
    st.builds(Hash, buckets=st.integers(1, 99), salt=st.integers(0, 9)),
    st.builds(
        Range, rows=st.integers(1, 99), offset=st.integers(-5, 5), out_of_range=st.sampled_from(["raise", "oov"])
    ),
)
numeric = st.builds(Numeric, name=st.just("n"), transform=st.sampled_from(["none", "log1p"]), width=st.integers(1, 3))
bucketised = st.one_of(
    st.builds(Bucketised, name=st.just("b"), quantiles=st.integers(2, 9)),
    st.builds(Bucketised, name=st.just("b"), boundaries=st.sets(st.integers(-9, 9), min_size=1).map(sorted).map(tuple)),
)
categorical = st.builds(
    Categorical, name=st.just("c"), encoding=encodings, separator=st.just("|"), max_length=st.none() | st.integers(1, 5)
)
schemas = st.builds(
    Schema,
    columns=st.tuples(numeric, bucketised, categorical),
    label=st.none() | st.just(Label(name="y", positive=("a", "b"))) | st.just(Label(name="y", threshold=3.5)),
    weight=st.none() | st.just(Weight(name="w")),
    time=st.none() | st.just(Time(name="t")),
    ignore=st.sampled_from([(), ("id", "x")]),
    missing=st.sampled_from([("",), ("", "?")]),
)


@given(schemas)
def test_json_round_trip_gives_an_equal_and_equally_hashed_schema(schema: Schema) -> None:
    again = Schema.from_json(schema.to_json())
    assert again == schema
    assert hash(again) == hash(schema)


def test_json_rejects_what_it_does_not_know_and_names_the_nearest_key() -> None:
    plain = json.loads(Schema(columns=(Categorical(name="user"),)).to_json())
    plain["columns"][0]["seperator"] = "|"
    with pytest.raises(ConfigError, match=r"Categorical: unknown key 'seperator'.*did you mean 'separator'"):
        Schema.from_json(json.dumps(plain))
    del plain["columns"][0]["seperator"]
    plain["columns"][0]["kind"] = "Categorial"
    with pytest.raises(ConfigError, match=r"'Categorial'.*did you mean 'Categorical'"):
        Schema.from_json(json.dumps(plain))
    del plain["columns"][0]["kind"]
    with pytest.raises(ConfigError, match="'kind'"):
        Schema.from_json(json.dumps(plain))
    with pytest.raises(ConfigError, match=r"Numeric: keys that are lacking: got \['name'\]"):
        Schema.from_json('{"kind": "Schema", "columns": [{"kind": "Numeric"}]}')
    with pytest.raises(ConfigError, match="no JSON"):
        Schema.from_json("{")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Numeric(name=""), "non-empty string"),
        (lambda: Numeric(name="x", transform="log"), "'x': transform: got 'log', expected one of"),  # type: ignore[arg-type]
        (lambda: Numeric(name="x", missing="mean"), "the mean needs standardize"),
        (lambda: Numeric(name="x", missing=float("nan")), "finite"),
        (lambda: Numeric(name="x", missing=-1.0, transform="log1p"), "more than -1"),
        (lambda: Numeric(name="x", width=0), "at least 1"),
        (lambda: Bucketised(name="x"), "boundaries, or quantiles"),
        (lambda: Bucketised(name="x", boundaries=(2.0, 1.0)), "increasing"),
        (lambda: Bucketised(name="x", quantiles=1), "at least 2"),
        (lambda: Categorical(name="x", max_length=3), "one id a row"),
        (lambda: Categorical(name="x", bag=True, sequence=True, weighted=True), "bags of plain ids"),
        (lambda: Categorical(name="x", bag=True, derive="log_square"), "one value a row"),
        (lambda: Categorical(name="x", separator=""), "separator"),
        (lambda: Vocabulary(min_count=0), "min_count: got 0"),
        (lambda: Hash(buckets=0), "buckets: got 0"),
        (lambda: Range(rows=3, out_of_range="clamp"), "'clamp'"),  # type: ignore[arg-type]
        (lambda: Label(name="y", negative=("0",)), "give positive"),
        (lambda: Label(name="y", positive=("1",), threshold=2.0), "at most one"),
        (lambda: Label(name="y", positive=("1",), negative=("1",)), "no overlap"),
        (lambda: Schema(columns=()), "at least one"),
        (lambda: Schema(columns=(Numeric(name="x"), Categorical(name="x"))), r"repeated names: got \['x'\]"),
        (lambda: Schema(columns=(Numeric(name="x"),), ignore=("x",)), "these are read"),
        (lambda: Schema(columns=(Numeric(name="x"),), extra="drop"), "'drop'"),  # type: ignore[arg-type]
        (lambda: Schema(columns=(Categorical(name="hist", shares="itm"), Categorical(name="item"))), "mean 'item'"),
        (
            lambda: Schema(
                columns=(Categorical(name="a", shares="b", encoding=Hash(buckets=3)), Categorical(name="b"))
            ),
            "share the encoding",
        ),
    ],
)
def test_a_config_that_means_nothing_is_refused(make, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_file_has_the_columns_of_the_schema_and_no_others() -> None:
    schema = Schema(columns=(Categorical(name="user"), Categorical(name="hour", source="time")), ignore=("id",))
    assert schema.select("f", ["id", "time", "user"]) == ["user", "time"]
    with pytest.raises(DataError, match="f: no column 'user'; did you mean 'usr'"):
        schema.select("f", ["usr", "time"])
    with pytest.raises(DataError, match=r"f: columns that the schema does not name: got \['city'\].*extra='ignore'"):
        schema.select("f", ["user", "time", "city"])
    with pytest.raises(DataError, match=r"f: repeated columns: got \['user'\]"):
        schema.select("f", ["user", "time", "user"])
    lenient = Schema(columns=schema.columns, extra="ignore")
    assert lenient.select("f", ["user", "time", "city"]) == ["user", "time"]


def test_fields_count_the_unknown_row_and_refuse_what_was_not_learnt() -> None:
    schema = Schema(
        columns=(
            Categorical(name="h", encoding=Hash(buckets=7)),
            Categorical(name="r", encoding=Range(rows=7), sequence=True),
            Categorical(name="o", encoding=Range(rows=7, out_of_range="oov"), shares=None),
            Bucketised(name="b", boundaries=(0.0, 1.0)),
            Numeric(name="x", width=3),
        )
    )
    fields = schema.fields(Vocabularies())
    assert fields.rows == {"h": 8, "r": 7, "o": 8, "b": 4}
    assert fields.dense == {"x": 3}
    assert fields.ragged == fields.sequences == ("r",)
    with pytest.raises(ConfigError, match="field 'v': vocabulary: got not learnt"):
        Schema(columns=(Categorical(name="v"),)).fields(Vocabularies())
