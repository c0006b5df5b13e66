"""Train TorchEasyRec's pipeline configs, evaluate weights trained there: ``python examples/from_easyrec.py --help``.

Without options it makes rows with a planted teacher, trains ``examples/deepfm.config`` on them, and reads back the
weights that it wrote. The last line printed is one JSON object with the results.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from easyrec_rows import Rows
from safetensors.torch import save_file
from tensordict import TensorDict
from tqdm import tqdm

from funcrec.core import tree
from funcrec.core.errors import ConfigError, DataError, FuncrecError, fail
from funcrec.core.random import fold_in, key, permutation
from funcrec.data import planted
from funcrec.interop import easyrec

DEMO = Path(__file__).parent / "deepfm.config"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Read a TorchEasyRec config; train it, or evaluate weights, or both."""

    config: Path | None = None
    """The pipeline config; without one, a demonstration."""
    weights: Path | None = None
    """Weights to start from or to evaluate: model.ckpt-<step>, *.safetensors, or a file of torch.save."""
    train: bool = True
    """Whether to train; --no-train evaluates the weights as they are."""
    train_path: str = ""
    """Parquet or csv files, instead of the config's train_input_path; commas and patterns as there."""
    eval_path: str = ""
    """Files to evaluate on, instead of the config's eval_input_path."""
    epochs: int | None = None
    """Passes over the training rows, instead of the config's num_epochs or num_steps."""
    plan: easyrec.Plan = "data_parallel"
    """Whose the tables are: "sharded" gives them to sparse_optimizer, as the original does with large tables;
    "data_parallel" to dense_optimizer, as it does with small ones in one process."""
    seed: int = 0
    out: Path = Path("runs/easyrec")
    """Directory for weights.safetensors, under the original's names."""
    progress: bool = True


def main(o: Options) -> dict[str, Any]:
    if o.config is None:
        planted(key(o.seed), 100_000, valid_rows=20_000, test_rows=1).write_csv("runs/easyrec/data")
    system = easyrec.parse((o.config or DEMO).read_text())
    if o.weights is not None:
        variables = system.import_weights(easyrec.read_state_dict(o.weights))
    elif o.train:
        variables = system.init(key(o.seed))
    else:
        fail(ConfigError, "--no-train", got="no --weights", fix="name the weights to evaluate")
    n = tree.count(variables["params"]) + system.spec.parameters
    ignored = ", ".join(sorted({path.split(".")[-1] for path in system.ignored}))
    print(f"{system.kind}: {n:,} parameters; fields of the config without effect here: {ignored or 'none'}")

    o.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"model": system.kind, "parameters": n}
    if o.train:
        variables, results["batches"] = train(o, system, variables)
        weights = o.out / "weights.safetensors"
        save_file({name: x.contiguous() for name, x in system.export_weights(variables).items()}, weights)
        print(f"weights, under TorchEasyRec's names: {weights}")
        variables = system.import_weights(easyrec.read_state_dict(weights))
    eval_path = o.eval_path or system.config.eval_input_path
    return results | (evaluate(system, variables, Rows(system, eval_path)) if eval_path else {})


def train(o: Options, system: easyrec.System, variables: TensorDict) -> tuple[TensorDict, int]:
    """The config's training: its batches, optimizers, schedules and length."""
    data, config = system.config.data_config, system.train_config
    rows = Rows(system, o.train_path or system.config.train_input_path)
    a_pass = len(rows) // data.batch_size if data.drop_remainder else -(-len(rows) // data.batch_size)
    if not a_pass:
        seen, fix = f"{len(rows)} rows", "give more rows, a smaller batch_size, or drop_remainder: false"
        fail(DataError, f"training files: batches of {data.batch_size}", got=seen, expected="at least one", fix=fix)
    epochs = o.epochs or (0 if config.num_steps else config.num_epochs or 1)
    total = epochs * a_pass or config.num_steps
    training, seen = system.init_training(variables, plan=o.plan, steps_per_epoch=a_pass), 0
    with tqdm(total=total, unit=" batches", disable=not o.progress, mininterval=0.5) as bar:
        while seen < total:
            order = permutation(fold_in(key(o.seed), seen), len(rows)) if data.shuffle else None
            for batch in rows.batches(data.batch_size, order, drop_last=data.drop_remainder):
                at = fold_in(fold_in(key(o.seed), "step"), seen)
                training, losses = system.train_step(training, batch, key=at, donate=True)
                seen += 1
                bar.update(1)
                if seen % 20 == 0:
                    bar.set_postfix({name: f"{float(loss):.4f}" for name, loss in losses.items()}, refresh=False)
                if seen == total:
                    break
    return training.averaged, seen


def evaluate(system: easyrec.System, variables: TensorDict, rows: Rows) -> dict[str, float]:
    """The config's metrics and mean losses on these rows."""
    metrics = system.metrics()
    states = {name: m.init() for name, m in metrics.items()}
    sums: dict[str, float] = {}
    size = system.config.data_config.eval_batch_size or system.config.data_config.batch_size
    with torch.no_grad():
        for batch in rows.batches(size):
            _, (losses, predictions, _) = system.losses(variables, batch, train=False)
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0.0) + float(loss) * len(batch)
            for name, m in metrics.items():
                states[name] = m.update(states[name], *system.metric_inputs(name, predictions, batch))
    measured = {name: float(m.compute(states[name])) for name, m in metrics.items()}
    return measured | {name: x / len(rows) for name, x in sums.items()}


if __name__ == "__main__":
    try:
        print(json.dumps(main(tyro.cli(Options, description=Options.__doc__))))
    except FuncrecError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
