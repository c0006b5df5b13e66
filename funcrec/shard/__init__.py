"""Tables on many devices. Plans are made without torchrec, which is imported when a plan is handed to it.

``plan(spec, "128xH200", batch=2048)`` chooses a sharding and ranks for every table, on machines that need not be there.
"""

from __future__ import annotations

import importlib
from typing import Any

_WHERE = {
    "plan": "planner",
    "Plan": "placement",
    "Placement": "placement",
    "Shard": "placement",
    "Constraint": "options",
    "Topology": "topology",
    "parse_topology": "topology",
    "choose": "dynamic",
    "sharded_store": "store",
    "everyones_ids": "reset",
    "replicas": "replication",
    "replicated_store": "replicated",
    "keeper": "keeping",
    "together": "share",
    "merge_states": "merge",
    "launched": "launch",
    "to_torchrec": "torchrec_plan",
    "from_torchrec": "torchrec_plan",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"funcrec.shard.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'funcrec.shard' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*globals(), *_WHERE]
