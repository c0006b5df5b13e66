"""Readers: the same rows whatever the format, the compression, the cut into files and blocks; places that are true."""

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError, DataError
from funcrec.core.ragged import Ragged
from funcrec.data import Categorical, Csv, Label, Libsvm, Numeric, Parquet, Range, Schema, Source, Vocabularies, load

SCHEMA = Schema(columns=(Categorical(name="u", encoding=Range(rows=100)), Numeric(name="x")), label=Label(name="y"))
ROWS = [(i % 2, i % 100, i / 4) for i in range(250)]


def table(rows, separator: str = ",", header: str | None = "y,u,x") -> str:
    lines = [] if header is None else [header.replace(",", separator)]
    return "\n".join(lines + [separator.join(map(str, row)) for row in rows]) + "\n"


def contents(source: Source, schema: Schema = SCHEMA) -> list[tuple]:
    rows = load(schema, source, Vocabularies()).rows
    u = rows.ids["u"]
    assert isinstance(u, torch.Tensor)
    columns = (rows.features["label"], u, rows.features["dense", "x"][:, 0])
    return list(zip(*(c.tolist() for c in columns), strict=True))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    ".bz2": bz2.compress,
}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2"])
@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_text_reads_the_same_plain_and_compressed(tmp_path: Path, name: str, separator: str, suffix: str) -> None:
    compress = COMPRESS[suffix]
    file = tmp_path / (name + suffix)
    file.write_bytes(compress(table(ROWS, separator).encode()))
    assert contents(Source(paths=(str(file),))) == ROWS


def test_parquet_reads_like_text(tmp_path: Path) -> None:
    y, u, x = zip(*ROWS, strict=True)
    plain = pa.table({"y": pa.array(y, pa.int8()), "u": u, "x": x})
    coded = plain.set_column(1, "u", pa.array(map(str, u)).dictionary_encode())
    for i, t in enumerate((plain, coded)):
        pq.write_table(t, tmp_path / f"{i}.parquet", compression="zstd", row_group_size=70)
        source = Source(paths=(str(tmp_path / f"{i}.parquet"),), format=Parquet(chunk_rows=33))
        assert contents(source) == ROWS


@given(st.integers(8, 400), st.integers(1, 5), st.booleans())
def test_blocks_files_and_blank_lines_do_not_matter(tmp_path_factory, block: int, files: int, blank: bool) -> None:
    folder = tmp_path_factory.mktemp("parts")
    size = -(-len(ROWS) // files)
    for i in range(files):
        text = table(ROWS[i * size : (i + 1) * size])
        (folder / f"part-{i}.csv").write_text(text.replace("\n", "\n\n") if blank else text)
    assert contents(Source(paths=(str(folder),), format=Csv(block_bytes=max(block, 24)))) == ROWS


@given(st.lists(st.sampled_from(["1,2,3.5", "", "4,5", "1,2,3,4"]), max_size=40), st.integers(16, 60), st.booleans())
def test_every_row_knows_its_line(tmp_path_factory, lines: list[str], block: int, header: bool) -> None:
    file = tmp_path_factory.mktemp("lines") / "a.csv"
    lines = ["y,u,x"] * header + ["0,0,0", *lines]
    file.write_text("\n".join(lines) + "\n")
    names = None if header else ("y", "u", "x")
    chunks = list(Source(paths=(str(file),), format=Csv(names=names, block_bytes=block)).chunks(SCHEMA))
    numbered = list(enumerate(lines, 1))[int(header) :]
    assert np.concatenate([c.numbers for c in chunks]).tolist() == [n for n, line in numbered if line.count(",") == 2]
    bad = [row for c in chunks for row in c.bad]
    assert [row.number for row in bad] == [n for n, line in numbered if line.count(",") in (1, 3)]
    for row in bad:
        assert (
            row.message == f"{file} line {row.number}: got {lines[row.number - 1].count(',') + 1} columns, expected 3"
        )


def test_sources_are_files_folders_and_patterns_each_file_once(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "_SUCCESS", ".hidden", "c.tsv"):
        (tmp_path / name).write_text("x")
    (tmp_path / "folder").mkdir()
    names = lambda *paths: [Path(f).name for f in Source(paths=tuple(str(tmp_path / p) for p in paths)).files()]  # noqa: E731
    assert names("") == ["a.csv", "b.csv", "c.tsv"]
    assert names("*.csv", "c.tsv", "a.csv") == ["a.csv", "b.csv", "c.tsv"]
    with pytest.raises(DataError, match=r"\*\.parquet.*no files"):
        names("*.parquet")
    with pytest.raises(DataError, match=r"folder.*no files"):
        names("folder")
    with pytest.raises(ConfigError, match="paths"):
        Source(paths=())
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"a\.txt: format.*'csv'"):
        contents(Source(paths=(str(tmp_path / "a.txt"),)))


def test_a_header_is_found_where_there_is_one_and_checked_where_there_must_be(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text(table(ROWS[:100]))
    (tmp_path / "1.csv").write_text(table(ROWS[100:], header=None))
    names = ("y", "u", "x")
    assert contents(Source(paths=(str(tmp_path),), format=Csv(names=names, header="detect"))) == ROWS
    with pytest.raises(DataError, match=r"1\.csv: header: got \['0', '0', '25.0'\], expected \['y', 'u', 'x'\]"):
        contents(Source(paths=(str(tmp_path),), format=Csv(names=names, header=True)))
    with pytest.raises(DataError, match=r"0\.csv line 1: column 'y': got 'y', expected a finite number"):
        contents(Source(paths=(str(tmp_path),), format=Csv(names=names)))
    with pytest.raises(ConfigError, match="names for files without a header"):
        Csv(header=False)


def test_quotes_byte_order_marks_crlf_and_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbf"y","u",x\r\n1,"7",0.5\r\n')
    assert contents(Source(paths=(str(tmp_path / "a.csv"),))) == [(1, 7, 0.5)]
    (tmp_path / "b.csv").write_text("y, u, x\n1, 7 , 0.5\n")
    assert contents(Source(paths=(str(tmp_path / "b.csv"),), format=Csv(strip=True))) == [(1, 7, 0.5)]


def test_a_file_of_only_a_header_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "0.csv").write_text("y,u,x")
    (tmp_path / "1.csv").write_text("y,u,x\n")
    with pytest.raises(DataError, match="no usable rows"):
        contents(Source(paths=(str(tmp_path),)))
    (tmp_path / "2.csv").write_text(table(ROWS))
    assert contents(Source(paths=(str(tmp_path),))) == ROWS


def test_libsvm_is_a_label_and_a_weighted_bag(tmp_path: Path) -> None:
    lines = ["+1 3:0.5 7:-2", "", "-1  # nothing here", "# only a comment", "  -1 0:1   ", "+1\t2:4 2:5"]
    file = tmp_path / "a.svm.gz"
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    features = Categorical(name="features", separator=" ", weighted=True, encoding=Range(rows=10))
    schema = Schema(columns=(features,), label=Label(name="label", positive=("+1", "1"), negative=("-1", "0")))
    rows = load(schema, Source(paths=(str(file),)), Vocabularies()).rows
    bag = rows.ids["features"]
    assert isinstance(bag, Ragged)
    assert bag.weights is not None
    assert rows.features["label"].tolist() == [1, 0, 0, 1]
    assert bag.lengths.tolist() == [2, 0, 1, 2]
    assert bag.values.tolist() == [3, 7, 0, 2, 2]
    assert torch.equal(bag.weights, torch.tensor([0.5, -2, 1, 4, 5]))
    file.write_bytes(gzip.compress("\n".join([*lines, "2 1:1"]).encode()))
    with pytest.raises(DataError, match=r"a\.svm\.gz line 7: column 'label': got '2', expected one of"):
        load(schema, Source(paths=(str(file),), format=Libsvm()), Vocabularies())


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet", "a.svm"])
def test_files_that_cannot_be_read_are_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    schema = (
        SCHEMA if "svm" not in name else Schema(columns=(Categorical(name="features", separator=" "),), extra="ignore")
    )
    with pytest.raises(DataError, match=f"{name}.*no files"):
        load(schema, Source(paths=(str(file),)), Vocabularies())
    file.write_bytes(b"")
    with pytest.raises(DataError, match=f"{name}: (empty file|cannot be read)"):
        load(schema, Source(paths=(str(file),)), Vocabularies())


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = gzip.compress(table(ROWS).encode())
    damaged = {
        "cut.csv.gz": whole[:-20],
        "flipped.csv.gz": whole[:40] + bytes([whole[40] ^ 255]) + whole[41:],
        "plain.csv.gz": table(ROWS).encode(),
        "latin.csv": table(ROWS).encode() + b"1,\xff,2\n",
        "long.csv": table(ROWS).encode() + b"1,2," + b"0" * 5000 + b"1\n",
        "x.parquet": b"PAR1 but no more",
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        layout = Csv(block_bytes=1000) if name == "long.csv" else None
        with pytest.raises(DataError, match=f"{name}: cannot be read"):
            contents(Source(paths=(str(tmp_path / name),), format=layout))
