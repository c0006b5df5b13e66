from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def torchmetrics() -> ModuleType:
    """The functional metrics of torchmetrics, which warns while it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("torchmetrics.functional.classification")
