"""What the tests of kernels share."""

from collections.abc import Iterator

import pytest

from tests.kernels.interpreter import interpreting


@pytest.fixture
def interpreter() -> Iterator[None]:
    """Kernels run in Triton's interpreter during the test."""
    with interpreting():
        yield
