"""Tables that lie on many ranks, kept: their best weights in memory, all of them in files and from files.

    others = replicas(ranks.group, keeper=keeper(spec, rule, ranks.group))
    step = make_step(model, sharded_store(spec, rule, where), optim.adam(1e-3), bce, replicas=others)
    run = Run(step.init(key(0, ranks.device)))
    for report in fit(run, step, part_of(data, others), config, valid=part_of(valid, others), …):
        checkpoint.save(root, report.run, about, replicas=others)
    run, _ = checkpoint.load(checkpoint.latest(root), about, into=Run(step.init(key(0))), replicas=others)

The folder names tables and slots, not shards (:mod:`funcrec.shard.checkpoint`): any number of ranks reads it, under any
sharding, and so does one process into a row-wise store. What such a store wrote is read into shards (``adopt``).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch import Tensor

from funcrec.core.errors import CheckpointError, fail
from funcrec.core.replicas import Keeper
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.embedding.store import Tables
from funcrec.optim.rowwise import RowRule
from funcrec.shard.checkpoint import load, tensors_of, weights_of, write
from funcrec.shard.restate import fill_restated, weight_name

BEST = "best."


def _parts(x: Any) -> list[Tensor]:
    """What of a tensor lies on this rank."""
    return [shard.tensor for shard in x.local_shards()] if hasattr(x, "local_shards") else [x]


def _copied(x: Any) -> Any:
    """A tensor, or a sharded tensor of copies of its shards."""
    if not hasattr(x, "local_shards"):
        return x.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own sharded tensors
        from torch.distributed._shard.sharded_tensor import Shard, ShardedTensor

        shards = [Shard(s.tensor.clone(), s.metadata) for s in x.local_shards()]
        return ShardedTensor._init_from_local_shards_and_global_metadata(
            shards, x.metadata(), process_group=x._process_group
        )


@dataclass(frozen=True)
class Weights:
    """A copy of this rank's shards of all tables: a :class:`~funcrec.core.replicas.Kept`."""

    spec: EmbeddingSpec
    rule: RowRule
    named: dict[str, Any]

    @torch.no_grad()
    def restored(self, tables: Tables) -> Tables:
        """The tables with these weights, written into their memory."""
        for name, live in weights_of(tensors_of(self.spec, self.rule, tables)).items():
            for target, copy in zip(_parts(live), _parts(self.named[name]), strict=True):
                target.copy_(copy)
        return tables


def keeper(spec: EmbeddingSpec, rule: RowRule, group: dist.ProcessGroup | None = None) -> Keeper:
    """How the tables of ``sharded_store(spec, rule, …)`` are kept; those of a local row-wise store, too.

    Raises:
        CheckpointError: in ``read`` and ``adopt``, tables or slots that the checkpoint lacks or has in another shape.
    """

    def live(tables: Tables) -> dict[str, Any]:
        return tensors_of(spec, rule, tables)

    def memory(tables: Tables) -> TensorDict:
        named = weights_of(live(tables))
        parts = {f"{name}.{i}": part.detach() for name, x in named.items() for i, part in enumerate(_parts(x))}
        return TensorDict(dict(sorted(parts.items())), batch_size=[])

    def kept(tables: Tables) -> Any:
        if "weights" in tables:
            return tables["weights"].clone()
        return Weights(spec, rule, {name: _copied(x) for name, x in weights_of(live(tables)).items()})

    def of_copy(tables: Tables, weights: Any) -> dict[str, Any]:
        named = weights.named if isinstance(weights, Weights) else weights_of(live({**tables, "weights": weights}))
        return {BEST + name: x for name, x in named.items()}

    def write_folder(folder: Path, tables: Tables, weights: Any) -> None:
        write(folder, live(tables) | ({} if weights is None else of_copy(tables, weights)), group)

    def read(folder: Path, tables: Tables, best: bool) -> tuple[Tables, Any]:
        load(folder, live(tables), group)
        weights = kept(tables) if best else None
        if best:
            load(folder, of_copy(tables, weights), group)
        return tables, weights

    def adopt(tables: Tables, saved: Tables, weights: Any) -> tuple[Tables, Any]:
        _check_local(spec, rule, saved)
        _fill(live(tables), live(saved))
        best = None
        if weights is not None:
            best = kept(tables)
            _fill(best.named, weights_of(live({**saved, "weights": weights})))
        return tables, best

    return Keeper(memory, kept, write_folder, read, adopt)


def _check_local(spec: EmbeddingSpec, rule: RowRule, saved: Tables) -> None:
    """Raise unless these are the tables of a row-wise store of this spec and rule."""
    if "slots" not in saved or "weights" not in saved:
        fix = "load it into the store that it is of"
        fail(CheckpointError, "checkpoint: tables", got=sorted(saved), expected="those of a row-wise store", fix=fix)
    shapes = lambda stacks: {name: (rows, dim) for name, (rows, dim) in sorted(stacks)}  # noqa: E731
    found = shapes((name, x.shape) for name, x in saved["weights"].items())
    wanted = shapes((s.name, (s.rows, s.dim)) for s in spec.stacks)
    if found != wanted:
        fail(CheckpointError, "checkpoint: stacks of tables", got=found, expected=wanted, fix="take its schema")
    for s in spec.stacks:
        names = sorted(saved["slots"][s.name])
        if names != sorted(rule.slots(s.dim)):
            fail(CheckpointError, f"checkpoint: slots of {s.name}", got=names, expected=f"those of {rule.name}")


@torch.no_grad()
def _fill(targets: Mapping[str, Any], sources: Mapping[str, Any]) -> None:
    """Write whole tensors into those, or those shards, of the same names."""
    for name, target in targets.items():
        if name not in sources:
            fail(CheckpointError, f"checkpoint: {name!r}", got=f"none among {sorted(sources)[:20]}")
        source = sources[name]
        if hasattr(target, "local_shards") and source.dim() == 1:
            columns = int(sources[weight_name(name)].shape[1])
            fill_restated(name, targets, source, ((0, columns),))
        elif hasattr(target, "local_shards"):
            for shard in target.local_shards():
                (row, column), (rows, columns) = shard.metadata.shard_offsets, shard.metadata.shard_sizes
                shard.tensor.copy_(source[row : row + rows, column : column + columns])
        elif target.shape != source.shape:
            fail(CheckpointError, f"checkpoint: {name!r}", got=tuple(source.shape), expected=tuple(target.shape))
        else:
            target.copy_(source)
