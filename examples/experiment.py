"""From options to data, and from data to a training step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from build import build_model
from options import Options

from funcrec import optim
from funcrec.core.errors import ConfigError, fail
from funcrec.core.groups import Sequence
from funcrec.core.init import Initializer, Normal
from funcrec.core.model import Model, Objective
from funcrec.core.random import key
from funcrec.core.replicas import Replicas, alone
from funcrec.data import (
    BadRows,
    Csv,
    Fields,
    InMemory,
    Libsvm,
    Parquet,
    Recipe,
    Schema,
    Source,
    Stream,
    Vocabularies,
    adult,
    avazu,
    criteo,
    din_toys_and_games,
    frappe,
    learn,
    load,
    ml_100k,
    planted,
)
from funcrec.embedding import EmbeddingSpec, Store, dense_store, rowwise_store, spec_for
from funcrec.losses import bce
from funcrec.optim import rowwise
from funcrec.optim.rowwise import RowRule
from funcrec.train import Step, make_step
from funcrec.transform import rocket_objective

RECIPES = {
    "criteo": criteo,
    "avazu": avazu,
    "frappe": frappe,
    "adult": lambda: adult(quantiles=200, dense=True),
    "din_toys_and_games": lambda: din_toys_and_games(max_length=20),  # nine histories in ten; 50 score no better
    "ml_100k": ml_100k,
}
FORMATS = {"csv": Csv(), "tsv": Csv(delimiter="\t"), "parquet": Parquet(), "libsvm": Libsvm()}
# What a checkpoint need not share with the run that resumes it: where things are, and how long to go on.
FREE = {"train_path", "valid_path", "test_path", "schema", "out", "resume", "evaluate", "checkpoint_steps", "epochs"}
FREE |= {"patience", "tensorboard", "progress", "max_bad_rows", "device"}
FREE |= {"ahead", "sharding", "show_plan"}


class Data(NamedTuple):
    """The splits that were given, what their fields are, and what was learnt from the training rows."""

    splits: dict[str, InMemory | Stream]
    fields: Fields
    schema: Schema
    vocabularies: Vocabularies
    best_auc: Mapping[str, float]
    """Of generated data only: what the teacher itself reaches."""
    bad_rows: dict[str, int]


def _recipe(o: Options, learnt: Schema | None) -> Recipe:
    if o.data in RECIPES:
        return RECIPES[o.data]()
    if learnt is not None:
        return Recipe(learnt, FORMATS[o.data])
    if o.schema is None:
        fail(ConfigError, f"--data {o.data}", got="no --schema", fix="write one with funcrec.data.Schema(…).to_json()")
    if not o.schema.is_file():
        fail(ConfigError, "--schema", got=f"{o.schema}, which is no file")
    return Recipe(Schema.from_json(o.schema.read_text()), FORMATS[o.data])


def _check_unused(o: Options) -> None:
    """Raise on options that this kind of data would ignore: a forgotten --data must not train on something else."""
    paths = ("train_path", "valid_path", "test_path")
    unused: tuple[str, ...] = ()
    if o.data == "synthetic":
        unused = (*paths, "schema", "valid_tail", "test_tail", "stream", "max_bad_rows")
    elif o.data in RECIPES:
        unused = ("schema",)
    if o.evaluate is not None:
        unused = (*unused, "train_path", "resume")
    for name in unused:
        if getattr(o, name):
            flag = "--" + name.replace("_", "-")
            what = f"{flag} has no effect with " + ("--evaluate" if o.evaluate else f"--data {o.data}")
            fail(ConfigError, what, fix="leave it out, or say what the files are with --data")


def _cut_tail(splits: dict[str, InMemory | Stream], split: str, share: float) -> None:
    """Take a split from the end of the training rows."""
    train = splits.get("train")
    if split in splits or not isinstance(train, InMemory):
        fail(ConfigError, f"--{split}-tail", got=f"--{split}-path or --stream beside it", expected="one of them")
    timed = "time" in train.rows.features.keys()
    splits["train"], splits[split] = train.split_time(share) if timed else train.split_tail(share)


def read(o: Options, learnt: tuple[Schema, Vocabularies] | None = None) -> Data:
    """Read every split that was given; ``learnt``: schema and vocabularies of a checkpoint instead of the data's."""
    _check_unused(o)
    if o.data == "synthetic":
        p = planted(key(o.seed))
        splits: dict[str, InMemory | Stream] = {"train": p.train, "valid": p.valid, "test": p.test}
        return Data(splits, p.train.fields, p.schema, Vocabularies(), p.best_auc, {})
    recipe = _recipe(o, learnt[0] if learnt else None)
    schema = learnt[0] if learnt else recipe.schema
    sources: dict[str, Source] = {}
    for split in ("train", "valid", "test"):
        paths: tuple[Path, ...] = getattr(o, f"{split}_path")
        if paths and not (o.evaluate and split == "train"):
            sources[split] = recipe.source(*paths, split=split)
    if "train" not in sources and o.evaluate is None:
        fail(ConfigError, f"--data {o.data}", got="no --train-path", fix="name the training files")
    skipped = {split: BadRows(limit=o.max_bad_rows) for split in sources}
    if learnt:
        vocabularies = learnt[1]
    else:
        vocabularies = learn(schema, sources["train"], bad_rows=BadRows(limit=o.max_bad_rows))
    splits = {}
    for split, source in sources.items():
        if split == "train" and o.stream:
            splits[split] = Stream(
                schema=schema, source=source, vocabularies=vocabularies, bad_rows=BadRows(limit=o.max_bad_rows)
            )
        else:
            splits[split] = load(schema, source, vocabularies, bad_rows=skipped[split])
    # The test rows are the last, the validation rows those before them.
    for split, share in (("test", o.test_tail), ("valid", o.valid_tail / (1.0 - o.test_tail))):
        if share:
            _cut_tail(splits, split, share)
    splits = {split: splits[split] for split in ("train", "valid", "test") if split in splits}
    bad = {split: b.count for split, b in skipped.items() if b.count}
    return Data(splits, schema.fields(vocabularies), schema, vocabularies, {}, bad)


def with_batch_size(o: Options, data: Data) -> Options:
    """Unless a batch size was given: 4096, or fewer rows so that an epoch has at least 64 steps."""
    train = data.splits["train"]
    if o.batch_size is not None or not isinstance(train, InMemory):
        return o if o.batch_size is not None else replace(o, batch_size=4096)
    return replace(o, batch_size=min(4096, 1 << max(5, (len(train) // 64).bit_length() - 1)))


def histories(model: Model) -> list[Sequence]:
    return [s for g in model.groups for s in g.sequences]


def _steps(o: Options, model: Model, fields: Fields) -> int | None:
    """One number of steps for every history, which compilation needs."""
    names = [f.name for s in histories(model) for f in s.embedded]
    if uncut := [name for name in names if name not in fields.longest]:
        fix = "set max_length of these fields in the schema, or leave --compile out"
        fail(ConfigError, "--compile: histories", got=f"{uncut} of any length", expected="a longest one", fix=fix)
    return max((fields.longest[name] for name in names), default=None)


def spec_of(o: Options, model: Model, fields: Fields) -> EmbeddingSpec:
    init: Initializer | None = Normal(1e-4) if o.data == "frappe" else Normal(0.01)
    used = {f.name for g in model.groups for f in g.embedded} | {f.name for s in histories(model) for f in s.embedded}
    return spec_for(
        model.groups,
        fields.rows,
        init=init,
        pooling=o.pooling,
        pad_to=_steps(o, model, fields) if o.compile else None,
        private=[g.name for g in model.groups if g.name == "wide"],
        tables={name: owner for name, owner in fields.shares.items() if name in used},
    )


def rule_of(o: Options) -> RowRule:
    return getattr(rowwise, str(o.tables))(o.table_learning_rate or o.learning_rate)


def check_penalty(o: Options) -> None:
    """Raise on an L2 penalty that a row-wise store would leave out."""
    if o.l2:
        fail(ConfigError, "--l2", got=f"{o.l2} with --tables {o.tables}", fix="a penalty on whole tables needs dense")


def local_store(o: Options, model: Model, fields: Fields) -> Store:
    spec = spec_of(o, model, fields)
    if o.tables == "dense":
        return dense_store(spec, getattr(optim, o.optimizer)(o.table_learning_rate or o.learning_rate), l2=o.l2 or 0.0)
    check_penalty(o)
    return rowwise_store(spec, rule_of(o), compile=bool(o.compile))


def distillation(o: Options, model: Model) -> Objective:
    """The light net's losses beside its booster's."""
    similarity = None if o.similarity == "none" else o.similarity
    factors = {"hint_l2_loss": o.hint}
    return rocket_objective(model, bce, similarity=similarity, temperature=o.temperature, factors=factors)


def build(o: Options, fields: Fields) -> Step:
    """The step of one process, which reads what many have written, too."""
    model, others = build_model(o, fields), alone()
    store = local_store(o, model, fields)
    if o.tables != "dense":
        from funcrec.shard import keeper

        others = others._replace(keeper=keeper(store.spec, rule_of(o)))
    return step_of(o, model, store, others)


def step_of(o: Options, model: Model, store: Store, replicas: Replicas) -> Step:
    """The training step, of one process or with ``replicas``."""
    rank, world = replicas.rank, replicas.world
    rows = o.batch_size or 0
    distilled = o.model == "rocket_launching" and o.booster
    return make_step(
        model,
        store,
        getattr(optim, o.optimizer)(o.learning_rate),
        None if distilled else bce,
        objective=distillation(o, model) if distilled else None,
        precision=o.precision,
        max_norm=o.max_norm,
        compile=bool(o.compile),
        compile_rows=rows * (rank + 1) // world - rows * rank // world or None,
        replicas=replicas,
    )


def describe(o: Options, data: Data) -> dict[str, Any]:
    """What a checkpoint belongs to: the options that shape the run, the schema, and what was learnt for it."""
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(o).items() if k not in FREE}
    return {
        "options": settings,
        "schema": data.schema.to_json(),
        "vocabularies": data.vocabularies.fingerprint(),
        "rows": dict(data.fields.rows),
        # The position inside an epoch means something for these very rows only.
        "train_rows": len(train) if isinstance(train := data.splits["train"], InMemory) else None,
    }
