"""The options of ``train.py``, and the settings that each data set starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from funcrec.core.errors import ConfigError, fail

Data = Literal[
    "synthetic",
    "csv",
    "tsv",
    "parquet",
    "libsvm",
    "criteo",
    "avazu",
    "frappe",
    "adult",
    "din_toys_and_games",
    "ml_100k",
]
ModelName = Literal[
    "lr", "fm", "wide_and_deep", "deepfm", "multi_tower", "din", "rocket_launching", "dlrm", "masknet", "dcn", "dcn_v2",
    "xdeepfm", "wukong",
]  # fmt: skip
Encoder = Literal["din", "mean", "sum", "simple", "self", "multi_window"]
Tables = Literal["dense", "sgd", "adagrad", "rowwise_adagrad", "adam", "partial_rowwise_adam", "lamb"]


@dataclass(frozen=True)
class Options:
    """Train a ranking model on files or on synthetic data, evaluate it, and keep its checkpoint.

    Options left at None take the setting of the data set.
    """

    model: ModelName = "deepfm"
    """Which model."""
    data: Data = "synthetic"
    """File format (with --schema), or a known data set, or generated data whose best possible AUC is known."""
    train_path: tuple[Path, ...] = ()
    """Training files, directories or patterns."""
    valid_path: tuple[Path, ...] = ()
    """Validation files: measured after every epoch, watched for early stopping."""
    test_path: tuple[Path, ...] = ()
    """Test files: measured once, at the end, with the best weights."""
    valid_tail: float = 0.0
    """Without --valid-path: the share of the training rows, from the end, to validate on. Where the schema has a time,
    the end means the latest moments."""
    test_tail: float = 0.0
    """Without --test-path: the share of the training rows, from the end, to test on; the validation rows lie before."""
    without: tuple[str, ...] | None = None
    """Fields of the data that the model does not read."""
    schema: Path | None = None
    """JSON file that says what the columns are (csv, tsv, parquet, libsvm)."""
    max_bad_rows: int = 0
    """Skip and count up to this many unusable rows per file set instead of stopping at the first."""
    stream: bool = False
    """Read the training files anew in every epoch, in bounded memory, instead of keeping them."""

    out: Path = Path("runs/last")
    """Directory of checkpoints, curves, losses and predictions."""
    resume: bool = False
    """Continue from the newest checkpoint under --out."""
    evaluate: Path | None = None
    """Measure this checkpoint on --test-path (or --valid-path) instead of training."""
    checkpoint_steps: int | None = None
    """Also save a checkpoint every so many steps; there is one after every epoch anyway."""

    seed: int = 2021
    """Of initial weights, order of the rows, dropout and synthetic data."""
    epochs: int | None = None
    """Passes over the training rows."""
    batch_size: int | None = None
    """Rows per batch; fewer than 4096 for small data."""
    accumulate: int = 1
    """Batches per step: gradients are summed, for tables as well."""
    ahead: int = 0
    """Batches that move to the device while earlier ones are trained on."""
    embedding_dim: int | None = None
    """Width of each embedding."""
    hidden: tuple[int, ...] | None = None
    """Widths of the MLP."""
    dropout: float | None = None
    """Dropout rate of the MLP."""
    batch_norm: bool | None = None
    """Batch normalization in the MLP."""
    cross_layers: int | None = None
    """DCN, DCNv2: number of cross layers."""
    low_rank: int | None = None
    """DCNv2: rank of the cross layers; 0 for full matrices."""
    cin: tuple[int, ...] | None = None
    """xDeepFM: widths of the CIN layers."""
    mask_blocks: int | None = None
    """MaskNet: number of parallel blocks."""
    mask_hidden: int | None = None
    """MaskNet: width of each block."""
    reduction: float | None = None
    """MaskNet: width of the mask generator in multiples of the input."""
    wukong_layers: int | None = None
    """WuKong: number of interaction layers."""
    wukong_fields: int | None = None
    """WuKong: fields made by each of the two halves of a layer."""
    wukong_products: int | None = None
    """WuKong: combinations that each field is multiplied with."""
    wukong_hidden: tuple[int, ...] | None = None
    """WuKong: widths of the MLP inside a layer."""
    user_fields: tuple[str, ...] | None = None
    """MultiTower: the fields of the first tower; all others make the second."""
    encoder: Encoder | None = None
    """DIN: what makes one vector of a history; 'din' is target attention."""
    attention: tuple[int, ...] | None = None
    """DIN: widths of the attention MLP (encoders din and multi_window)."""
    attention_activation: str | None = None
    """DIN: its activation, Dice say."""
    softmax: bool | None = None
    """DIN: whether attention weights sum to 1 (encoder din)."""
    light: tuple[int, ...] | None = None
    """RocketLaunching: widths of the light net, the one that is evaluated; --hidden are the booster's."""
    light_dropout: float | None = None
    """RocketLaunching: dropout of the light net beside its booster; as --dropout unless given."""
    shared: tuple[int, ...] | None = None
    """RocketLaunching: widths of the layers below both nets, which learn from the booster alone."""
    light_learns_shared: bool | None = None
    """RocketLaunching: whether the light net's losses reach shared layers and embeddings, as in the paper."""
    hint: float | None = None
    """RocketLaunching: factor on the squared error between the two nets' logits."""
    temperature: float | None = None
    """RocketLaunching: adds soft labels of this temperature."""
    booster: bool | None = None
    """RocketLaunching: --booster False trains the light net alone, by its own loss, embeddings included."""
    similarity: Literal["cosine", "euclid", "inner_product", "none"] | None = None
    """RocketLaunching: how hidden layers of equal width are compared."""
    pooling: Literal["sum", "mean"] | None = None
    """Of fields with several ids a row."""

    optimizer: Literal["adam", "adamw", "adagrad", "sgd"] = "adam"
    """Optimizer of the dense weights, and of the tables with --tables dense."""
    tables: Tables | None = None
    """dense: tables are ordinary parameters of --optimizer. Others: only the rows of the batch are updated."""
    learning_rate: float | None = None
    """Learning rate of the dense weights."""
    table_learning_rate: float | None = None
    """Learning rate of the tables, where it differs."""
    l2: float | None = None
    """L2 penalty on whole tables (needs --tables dense)."""
    max_norm: float | None = None
    """Clip the norm of all gradients, tables included."""
    patience: int | None = None
    """Stop after this many epochs without a better validation AUC."""
    reduce: float | None = None
    """Factor on the learning rate after an epoch without a better validation AUC."""
    device: str = "auto"
    """cpu, cuda, or auto: the GPU where there is one."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast of the model; weights and tables stay in float32."""
    compile: bool | None = None
    """torch.compile the gradient and the row update (half a minute at the start, faster steps after)."""
    tensorboard: bool = True
    """Write TensorBoard scalars under --out."""
    progress: bool = True
    """Show the progress bar."""


COMMON: dict[str, Any] = {
    "epochs": 5,
    "embedding_dim": 16,
    "hidden": (256, 128, 64),
    "dropout": 0.0,
    "batch_norm": False,
    "cross_layers": 3,
    "low_rank": 32,
    "cin": (64, 64),
    "mask_blocks": 3,
    "mask_hidden": 64,
    "reduction": 1.0,
    "wukong_layers": 2,
    "wukong_fields": 8,
    "wukong_products": 8,
    "wukong_hidden": (64,),
    "user_fields": (),
    "encoder": "din",
    "attention": (80, 40),
    "attention_activation": "Dice",
    "softmax": True,
    "light": (64, 32),
    "shared": (),
    "light_learns_shared": False,
    "hint": 1.0,
    "booster": True,
    "similarity": "cosine",
    "pooling": "sum",
    "without": (),
    "tables": "adam",
    "learning_rate": 1e-3,
    "l2": 0.0,
    "patience": 3,
    "reduce": 1.0,
    "compile": False,
}
# The published settings of BARS for Frappe_x1, and what differs by model.
FRAPPE: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 4096,
    "embedding_dim": 10,
    "hidden": (400, 400, 400),
    "batch_norm": True,
    "low_rank": 0,
    "tables": "dense",
    "max_norm": 10.0,
    "patience": 2,
    "reduce": 0.1,
    "compile": True,
    "user_fields": ("user", "daytime", "weekday", "isweekend", "homework", "weather", "country", "city"),
}
BY_DATA: dict[str, dict[str, Any]] = {
    "synthetic": {
        "epochs": 6,
        "hidden": (128, 64),
        "learning_rate": 4e-3,
        "user_fields": ("f0", "f1", "f2", "f3"),
    },
    "frappe": FRAPPE,
    "adult": {"epochs": 20, "dropout": 0.2, "hidden": (128, 64), "tables": "dense", "l2": 1e-4},
    # L2 over whole tables, dropout and a small attention net: without them every encoder, DIN the most, overfits.
    "din_toys_and_games": {
        "epochs": 12,
        "batch_size": 1024,
        "embedding_dim": 32,
        "hidden": (200, 80),
        "pooling": "mean",
        "without": ("user",),
        "tables": "dense",
        "l2": 0.002,
        "dropout": 0.3,
        "attention": (16,),
        "patience": 2,
        "compile": True,
    },
    "ml_100k": {
        "epochs": 50,
        "batch_size": 1024,
        "hidden": (64, 32),
        "pooling": "mean",
        "user_fields": ("user_id", "age", "gender", "occupation", "zip_code"),
        "patience": 2,
    },
}
BY_DATA_AND_MODEL: dict[tuple[str, str], dict[str, Any]] = {
    ("frappe", "lr"): {"l2": 1e-5, "compile": False},
    ("frappe", "fm"): {"l2": 5e-6, "compile": False},
    ("frappe", "wide_and_deep"): {"l2": 0.1, "dropout": 0.6},
    ("frappe", "deepfm"): {"l2": 0.05, "dropout": 0.2},
    ("frappe", "dcn"): {"l2": 0.05, "dropout": 0.2},
    ("frappe", "dcn_v2"): {"l2": 0.05, "dropout": 0.4, "cross_layers": 4},
    ("frappe", "xdeepfm"): {"l2": 0.1, "dropout": 0.2, "cin": (64,)},
    ("frappe", "dlrm"): {"l2": 0.1, "dropout": 0.4},
    ("frappe", "masknet"): {"l2": 0.1, "dropout": 0.1, "mask_hidden": 50, "reduction": 2.0, "batch_norm": False},
    ("frappe", "wukong"): {
        "l2": 0.1,
        "dropout": 0.2,
        "embedding_dim": 16,
        "wukong_fields": 16,
        "wukong_hidden": (128,),
        "hidden": (400, 400),
    },
    ("frappe", "rocket_launching"): {
        "l2": 0.05,
        "dropout": 0.2,
        "shared": (400,),
        "hidden": (400, 400),
        "light": (32,),
        "similarity": "none",  # no two layers of equal width
        "hint": 0.1,
    },
}


# Options of parts that not every model has: giving one to another model is an error, not a wish that is ignored.
BELONGS_TO: dict[str, tuple[str, ...]] = {
    "cross_layers": ("dcn", "dcn_v2"),
    "low_rank": ("dcn_v2",),
    "cin": ("xdeepfm",),
    **dict.fromkeys(("mask_blocks", "mask_hidden", "reduction"), ("masknet",)),
    **dict.fromkeys(("wukong_layers", "wukong_fields", "wukong_products", "wukong_hidden"), ("wukong",)),
    "user_fields": ("multi_tower",),
    **dict.fromkeys(("encoder", "attention", "attention_activation", "softmax"), ("din",)),
    **dict.fromkeys(
        ("light", "light_dropout", "shared", "light_learns_shared", "hint", "temperature", "booster", "similarity"),
        ("rocket_launching",),
    ),
}
LACKED_BY = {
    "embedding_dim": ("lr",),
    **dict.fromkeys(("hidden", "dropout", "batch_norm"), ("lr", "fm")),
}
# And options that another option switches off: what they need.
NEEDS = {
    "attention": ("encoder", ("din", "multi_window")),
    "attention_activation": ("encoder", ("din", "multi_window")),
    "softmax": ("encoder", ("din",)),
    **dict.fromkeys(
        ("similarity", "hint", "temperature", "light_learns_shared", "light_dropout", "hidden"), ("booster", (True,))
    ),
}


def _refuse(name: str, why: str) -> None:
    fail(ConfigError, f"--{name.replace('_', '-')}: {why}", fix="leave it out, or choose another model")


def completed(options: Options) -> Options:
    """The options with every None replaced by the data set's setting (``max_norm`` and the like may stay None)."""
    given = {name for name, value in vars(options).items() if value is not None}
    for name in (*BELONGS_TO, *LACKED_BY):
        lacking = options.model in LACKED_BY.get(name, ()) or options.model not in BELONGS_TO.get(
            name, (options.model,)
        )
        if name in given and lacking:
            _refuse(name, f"{options.model} has no such part")
    settings = COMMON | BY_DATA.get(options.data, {}) | BY_DATA_AND_MODEL.get((options.data, options.model), {})
    done = replace(options, **{name: value for name, value in settings.items() if name not in given})
    for name, (other, values) in NEEDS.items():
        if name in given and getattr(done, other) not in values:
            _refuse(name, f"without effect with --{other} {getattr(done, other)}")
    return done
