"""What arrives is kept from the allocator of the stream that it was sent on."""

from __future__ import annotations

from typing import Any

from funcrec.shard.sending import Arrived, Sent


class Kept:
    """In place of what only a GPU has: a tensor in memory of another stream."""

    def __init__(self) -> None:
        self.by: list[Any] = []

    def record_stream(self, stream: Any) -> None:
        self.by.append(stream)


def test_all_that_a_lookup_reads_is_recorded() -> None:
    context, kjts, ids = Kept(), [Kept(), Kept()], Kept()

    def way():
        yield
        return Arrived(3, 3, {"bags": (context, kjts)}, ids)  # type: ignore[arg-type]

    stream: Any = object()
    Sent({}, way()).record_stream(stream)
    assert [x.by for x in (context, *kjts, ids)] == [[stream]] * 4
