"""One pool of processes a test session (under xdist: a worker), for worlds of every size."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.shard.processes import Ranks


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """``ranks.run(world, function, *args)``: see :mod:`tests.shard.processes`."""
    with Ranks(tmp_path_factory.mktemp("ranks")) as pool:
        yield pool
