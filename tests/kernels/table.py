"""All ops of the kernels room, as the tests quantify over them."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from tests.kernels.cases import OpCase

CASES: list[OpCase] = [
    case
    for module in sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]) if m.name[:6] == "cases_")
    for case in importlib.import_module(f"tests.kernels.{module}").CASES
]
