"""funcrec: ranking models as pure functions over parameter trees, on PyTorch."""

__version__ = "0.1.0"
