"""funcrec: ranking models as pure functions over parameter trees, on PyTorch.

The rooms are imported when first used (``funcrec.models``, ``funcrec.embedding``, …), so that ``import funcrec`` costs
nothing: TensorDict alone pulls in the compiler front end of torch.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

_ROOMS = (
    "core", "data", "embedding", "interop", "kernels", "layers", "losses", "metrics", "models", "optim", "shard",
    "train", "transform",
)  # fmt: skip
__all__ = ["__version__", *_ROOMS]


def __getattr__(name: str) -> ModuleType:
    if name in _ROOMS:
        return importlib.import_module(f"funcrec.{name}")
    raise AttributeError(f"module 'funcrec' has no attribute {name!r}; it has {', '.join(_ROOMS)}")


def __dir__() -> list[str]:
    return [*globals(), *_ROOMS]
