"""Rows as TorchEasyRec reads them, one column a feature, as batches of a system."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
import torch
from torch import Tensor

from funcrec.core.batch import Batch
from funcrec.core.errors import DataError, fail
from funcrec.interop.easyrec import System


def _files(paths: str) -> list[str]:
    """Comma-separated paths and patterns, as ``train_input_path`` has them."""
    found = [f for part in paths.split(",") for f in sorted(glob.glob(part.strip()))]
    if not found:
        fail(DataError, f"input path {paths!r}", got="no such file", fix="name files that are there, or a pattern")
    return found


def _split(cells: pa.Array, separator: str) -> pa.Array:
    """Texts as lists of texts; an empty text is an empty list."""
    lists = pc.split_pattern(pc.fill_null(cells, ""), separator)
    return pa.ListArray.from_arrays(*_without_empty(lists.flatten(), np.asarray(pc.list_value_length(lists))))


def _without_empty(values: pa.Array, lengths: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """The offsets and values of lists without their empty texts."""
    keep = np.asarray(pc.not_equal(values, ""))
    ends = np.concatenate([[0], np.cumsum(keep)])[np.concatenate([[0], np.cumsum(lengths)])]
    return pa.array(ends.astype(np.int32)), values.filter(pa.array(keep))


def _is_text(x: pa.Array) -> bool:
    return pa.types.is_string(x.type) or pa.types.is_large_string(x.type)


def _lists(x: pa.Array, separator: str) -> tuple[pa.Array, np.ndarray]:
    """(values, how many in each cell) of cells that are lists, texts to split, or single values."""
    if _is_text(x):
        x = _split(x, separator)
    if pa.types.is_list(x.type) or pa.types.is_large_list(x.type) or pa.types.is_fixed_size_list(x.type):
        return x.flatten(), np.asarray(pc.fill_null(pc.list_value_length(x), 0)).astype(np.int64)
    return x.drop_null(), np.asarray(x.is_valid()).astype(np.int64)


class Rows:
    """All rows of some files.

    A column is called like its feature, those of histories ``<sequence>__<feature>``. Ids are numbers, lists of them
    or text with the config's ``fg_encoded_multival_sep`` between them; steps of a history are lists or text with its
    ``sequence_delim``. What TorchEasyRec's feature generation would compute has been computed (``fg_mode: FG_NONE``).
    """

    def __init__(self, system: System, paths: str, *, labels: bool = True) -> None:
        self.system, data = system, system.config.data_config
        self.separator = data.fg_encoded_multival_sep
        self.delimiters = dict(_delimiters(system))
        self.targets = [*(data.label_fields if labels else []), *data.sample_weight_fields]
        wanted = list(dict.fromkeys((*self._features(), *self.targets)))
        tables = [_read(file, data, wanted) for file in _files(paths)]
        self.table = pa.concat_tables(tables, promote_options="default").combine_chunks()

    def _features(self) -> list[str]:
        """The features that the system's batches hold."""
        system = self.system
        histories = [s for g in (*system.model.groups, *system.moving) for s in g.sequences]
        numbers = [f.name for g in system.model.groups for f in g.dense]
        numbers += [f.name for s in histories for f in (*s.query, *s.keys) if f.dense]
        also = {*system.groupings, system.session} - {""}
        return list(dict.fromkeys((*system.spec.features, *numbers, *sorted(also))))

    def __len__(self) -> int:
        return self.table.num_rows

    def batches(self, size: int, order: Tensor | None = None, *, drop_last: bool = False) -> Iterator[Batch]:
        """One pass, in this order of row numbers."""
        stop = len(self) - len(self) % size if drop_last else len(self)
        for start in range(0, stop, size):
            n = min(size, stop - start)
            part = self.table.slice(start, n) if order is None else self.table.take(order[start : start + n].numpy())
            yield self.batch(part)

    def batch(self, table: pa.Table) -> Batch:
        """These rows."""
        sparse, dense, steps = {}, {}, {}
        for name in self._features():
            f, column = self.system.features[name], _one_chunk(table, name)
            if not f.sequence:
                values, lengths = _lists(column, self.separator)
                if f.sparse:
                    sparse[name] = self._numbers(name, values, pa.int64()), torch.from_numpy(lengths)
                else:
                    dense[name] = self._rectangle(name, values, lengths, f.width)
                continue
            outer, counts = _lists(column, self.delimiters.get(name, ";"))
            inner, lengths = _lists(outer, self.separator)
            if f.bags:
                bags = torch.from_numpy(lengths), torch.from_numpy(counts)
                sparse[name] = (self._numbers(name, inner, pa.int64()), *bags)
            elif f.sparse:
                if not bool((lengths == 1).all()):
                    fail(DataError, f"column {name!r}", got="a step with no or several ids", expected="one id a step")
                sparse[name] = self._numbers(name, inner, pa.int64()), torch.from_numpy(counts)
            else:
                steps[name] = self._rectangle(name, inner, lengths, f.width), torch.from_numpy(counts)
        targets = {n: self._numbers(n, _one_chunk(table, n), None) for n in self.targets}
        data = self.system.config.data_config
        labels = {n: targets[n] for n in data.label_fields if n in targets}
        weights = {n: targets[n].float() for n in data.sample_weight_fields}
        return self.system.batch(sparse, dense, steps, labels=labels or None, sample_weights=weights or None)

    def _numbers(self, name: str, values: pa.Array, kind: pa.DataType | None) -> Tensor:
        if kind is None:  # labels and weights: the numbers that they are
            kind = values.type if pa.types.is_integer(values.type) else pa.float64()
        try:
            values = pc.cast(values, kind)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
            fix = "columns come here as numbers, after TorchEasyRec's feature generation or hashing"
            fail(DataError, f"column {name!r}: {e}", fix=fix)
        if values.null_count:
            fail(
                DataError, f"column {name!r}", got=f"{values.null_count} empty cells", fix="fill them, or drop the rows"
            )
        return torch.from_numpy(np.array(values))

    def _rectangle(self, name: str, values: pa.Array, lengths: np.ndarray, width: int) -> Tensor:
        if not bool((lengths == width).all()):
            odd = int(lengths[lengths != width][0])
            fail(DataError, f"column {name!r}: numbers in one cell", got=odd, expected=f"value_dim, {width}")
        return self._numbers(name, values, pa.float32()).reshape(-1, width)


def _one_chunk(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name).combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def _delimiters(system: System) -> Iterator[tuple[str, str]]:
    """What separates the steps of each history."""
    for config in system.config.feature_configs:
        kind = config.WhichOneof("feature")
        body = getattr(config, kind)
        if kind == "sequence_feature":
            parts = (getattr(p, p.WhichOneof("feature")) for p in body.features)
            yield from ((f"{body.sequence_name}__{p.feature_name}", body.sequence_delim) for p in parts)
        elif kind.startswith("sequence_"):
            yield body.feature_name, body.sequence_delim


def _read(file: str, data: object, wanted: list[str]) -> pa.Table:
    """The wanted columns of a Parquet or csv file."""
    if Path(file).suffix == ".parquet":
        present = pa.parquet.read_schema(file).names
        _check(file, present, wanted)
        return pa.parquet.read_table(file, columns=wanted)
    names = None if data.with_header else [f.input_name for f in data.input_fields]  # type: ignore[attr-defined]
    if names == []:
        fix = "set data_config.with_header: true, or list input_fields"
        fail(DataError, f"{file}: names of its columns", got="neither a header nor input_fields", fix=fix)
    table = pa.csv.read_csv(
        file,
        read_options=pa.csv.ReadOptions(column_names=names),
        parse_options=pa.csv.ParseOptions(delimiter=data.delimiter),  # type: ignore[attr-defined]
    )
    _check(file, table.column_names, wanted)
    return table.select(wanted)


def _check(file: str, present: list[str], wanted: list[str]) -> None:
    if missing := [name for name in wanted if name not in present]:
        fail(
            DataError, f"{file}: columns {missing} are not there", got=present, fix="one column a feature, by its name"
        )
