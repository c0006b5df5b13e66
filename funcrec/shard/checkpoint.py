"""Checkpoints of many ranks: written by any number of them, read by any other, and by one process without ranks.

    save(root / "step-100", tensors_of(spec, rule, tables) | {"dense": params}, group)
    load(root / "step-100", tensors_of(spec, rule, fresh) | {"dense": params}, group)      # written into these

A checkpoint names tables and slots, not shards: how they were sharded then and are now is nobody's business but
``torch.distributed.checkpoint``'s, which moves every block to where it is wanted.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from funcrec.core.errors import CheckpointError, fail
from funcrec.embedding.spec import EmbeddingSpec
from funcrec.embedding.store import Tables
from funcrec.optim.rowwise import RowRule
from funcrec.shard.blocks import sharded_tensors
from funcrec.shard.group import rank_in, world_size
from funcrec.shard.restate import Columns, columns_of, fill_restated, wanted_columns, weight_name


def _local_tensors(spec: EmbeddingSpec, tables: Tables) -> dict[str, Any]:
    """Views of the tables in the stacks of a row-wise store."""
    named: dict[str, Any] = {}
    for stack in spec.stacks:
        for t in stack.tables:
            at = slice(stack.offsets[t.name], stack.offsets[t.name] + t.rows)
            named[f"tables.{t.name}.weight"] = tables["weights"][stack.name][at]
            for slot, values in tables["slots"][stack.name].items():
                named[f"tables.{t.name}.{slot}"] = values[at]
    return named


def tensors_of(spec: EmbeddingSpec, rule: RowRule, tables: Tables) -> dict[str, Any]:
    """The memory of all tables and slots by name, of a sharded or of a local row-wise store; what is written there, is
    written into the store. With the count of steps and the scale of the learning rate."""
    named: dict[str, Any] = {"tables.step": tables["step"], "tables.scale": tables["scale"]}
    named |= as_named("tables.zch", tables.get("zch", {}))
    if "modules" not in tables:
        return named | _local_tensors(spec, tables)
    sharded = set()
    for module in tables["modules"].values():
        for table, slot, tensor in sharded_tensors(module, rule):
            named[f"tables.{table}.{slot or 'weight'}"] = tensor
            sharded.add(table)
    copied = EmbeddingSpec(tables=tuple(t for t in spec.tables if t.name not in sharded), groups=())
    return named | _local_tensors(copied, tables["replicated"])


def weights_of(named: Mapping[str, Any]) -> dict[str, Any]:
    """Of what :func:`tensors_of` names, the tables themselves."""
    return {name: x for name, x in named.items() if name.endswith(".weight")}


def save(path: Path, named: Mapping[str, Any], group: dist.ProcessGroup | None = None) -> None:
    """Write a checkpoint, all ranks together; it is there whole or not at all.

    Args:
        path: on a file system that all ranks see; must not exist.
        named: tensors, alike on all ranks, and sharded tensors.

    Raises:
        CheckpointError: there is something at ``path`` already.
    """
    rough = path.with_name(f".{path.name}.part")
    if path.exists():  # seen by all ranks: one that fails alone would leave the others waiting
        fail(CheckpointError, f"checkpoint {path}", got="one that is there already", fix="choose another name")
    if rank_in(group) == 0:
        shutil.rmtree(rough, ignore_errors=True)
    _wait(group)
    write(rough, named, group)
    _wait(group)
    if rank_in(group) == 0:
        os.replace(rough, path)
    _wait(group)


def write(folder: Path, named: Mapping[str, Any], group: dist.ProcessGroup | None = None) -> None:
    """:func:`save` without its guarantee: a folder that is whole when all ranks are done."""
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own sharded tensors, and that one process has no group
        dcp.save(dict(named), checkpoint_id=folder, process_group=group, no_dist=world_size(group) == 1)


def load(path: Path, named: Mapping[str, Any], group: dist.ProcessGroup | None = None) -> None:
    """Read a checkpoint into these tensors, all ranks together.

    Statistics of one number a row and column shard are restated where the column shards are others
    (:mod:`funcrec.shard.restate`); each rank reads them whole.

    Raises:
        CheckpointError: no checkpoint, or one that lacks a name or has another shape of it.
    """
    import torch.distributed.checkpoint as dcp

    if not (path / ".metadata").exists():
        fail(CheckpointError, f"checkpoint {path}", got="no such checkpoint", fix="look for the last whole one")
    held: dict[str, Any] = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    other: dict[str, tuple[Columns, Tensor]] = {}
    for name, x in named.items():
        if name not in held:
            seen = sorted(held)[:20]
            fail(CheckpointError, f"checkpoint {path}: {name!r} is missing", got=f"it has {seen}")
        columns, wanted_now = _held_columns(name, held), wanted_columns(name, named)
        if columns and wanted_now and columns != wanted_now:
            other[name] = columns, torch.empty(held[name].size, dtype=held[name].properties.dtype)
            continue
        size = getattr(held[name], "size", None)
        if size is not None and tuple(size) != tuple(x.size()):
            fail(CheckpointError, f"checkpoint {path}: {name!r}", got=tuple(size), expected=tuple(x.size()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.no_grad():
            wanted = {**named, **{name: whole for name, (_, whole) in other.items()}}
            dcp.load(wanted, checkpoint_id=path, process_group=group, no_dist=world_size(group) == 1)
            for name, (columns, whole) in other.items():
                fill_restated(name, named, whole, columns)


def _held_columns(name: str, held: Mapping[str, Any]) -> Columns:
    """The column shards of a table in a checkpoint, for a statistic with a number for each; () for all else."""
    weight = held.get(weight_name(name)) if name.startswith("tables.") else None
    if weight is None or name == weight_name(name) or len(held[name].size) != 1:
        return ()
    return columns_of((c.offsets, c.sizes) for c in weight.chunks)


def _wait(group: dist.ProcessGroup | None) -> None:
    if world_size(group) > 1:
        dist.barrier(group)


def last_whole(root: Path) -> Path | None:
    """The checkpoint ``step-<number>`` with the largest number, of those that are whole; None where there is none."""
    found = [p for p in root.glob("step-*") if (p / ".metadata").exists() and p.name[5:].isdecimal()]
    return max(found, key=lambda p: int(p.name[5:]), default=None)


def as_named(prefix: str, tree: Any) -> dict[str, Tensor]:
    """The tensors in nested dicts, lists and TensorDicts, by dotted name."""
    if isinstance(tree, Tensor):
        return {prefix: tree}
    items = enumerate(tree) if isinstance(tree, (list, tuple)) else tree.items()
    return {name: x for k, v in items for name, x in as_named(f"{prefix}.{k}", v).items()}
