"""The small data set as files and in memory."""

import pytest

from funcrec.data import Csv, InMemory, Source, Vocabularies, load
from tests.data.small import SCHEMA, N, lines


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Source:
    folder = tmp_path_factory.mktemp("parts")
    for i, start in enumerate(range(0, N, 40)):
        (folder / f"{i}.csv").write_text("\n".join(["y,u,bag,x,t", *lines()[start : start + 40]]) + "\n")
    return Source(paths=(str(folder),), format=Csv(block_bytes=500))


@pytest.fixture(scope="session")
def memory(source: Source) -> InMemory:
    return load(SCHEMA, source, Vocabularies())
