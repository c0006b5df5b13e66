"""The options of ``train.py``, and the settings that each data set starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from funcrec.core.errors import ConfigError, fail

Data = Literal["synthetic", "csv", "tsv", "parquet", "libsvm", "criteo", "avazu", "frappe", "adult"]
ModelName = Literal["lr", "fm", "deepfm", "dlrm", "dcn_v2"]
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
    """Without --valid-path: the share of the training rows, from the end, to validate on."""
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
    embedding_dim: int | None = None
    """Width of each embedding."""
    hidden: tuple[int, ...] | None = None
    """Widths of the MLP."""
    dropout: float | None = None
    """Dropout rate of the MLP."""
    batch_norm: bool | None = None
    """Batch normalization in the MLP."""
    cross_layers: int | None = None
    """DCNv2: number of cross layers."""
    low_rank: int | None = None
    """DCNv2: rank of the cross layers; 0 for full matrices."""

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
    "cross_layers": 4,
    "low_rank": 0,
    "tables": "dense",
    "max_norm": 10.0,
    "patience": 2,
    "reduce": 0.1,
    "compile": True,
}
BY_DATA: dict[str, dict[str, Any]] = {
    "synthetic": {"epochs": 6, "hidden": (128, 64), "learning_rate": 4e-3},
    "frappe": FRAPPE,
    "adult": {"epochs": 20, "dropout": 0.2, "hidden": (128, 64), "tables": "dense", "l2": 1e-4},
}
BY_DATA_AND_MODEL: dict[tuple[str, str], dict[str, Any]] = {
    ("frappe", "lr"): {"l2": 1e-5, "compile": False},
    ("frappe", "fm"): {"l2": 5e-6, "compile": False},
    ("frappe", "deepfm"): {"l2": 0.05, "dropout": 0.2},
    ("frappe", "dcn_v2"): {"l2": 0.05, "dropout": 0.4},
    ("frappe", "dlrm"): {"l2": 0.1, "dropout": 0.4},
}


# Options of parts that a model does not have: giving one is an error, not a wish that is ignored.
NO_MLP = ("hidden", "dropout", "batch_norm")
NO_CROSS = ("cross_layers", "low_rank")
NOT_OF: dict[str, tuple[str, ...]] = {
    "lr": ("embedding_dim", *NO_MLP, *NO_CROSS),
    "fm": (*NO_MLP, *NO_CROSS),
    "deepfm": NO_CROSS,
    "dlrm": NO_CROSS,
    "dcn_v2": (),
}


def completed(options: Options) -> Options:
    """The options with every None replaced by the data set's setting (``max_norm`` and the like may stay None)."""
    for name in NOT_OF[options.model]:
        if getattr(options, name) is not None:
            flag = "--" + name.replace("_", "-")
            fail(ConfigError, f"{flag}: {options.model} has no such part", fix="leave it out, or choose another model")
    settings = COMMON | BY_DATA.get(options.data, {}) | BY_DATA_AND_MODEL.get((options.data, options.model), {})
    given = {name: value for name, value in settings.items() if getattr(options, name) is None}
    return replace(options, **given)
