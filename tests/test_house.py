"""The house itself: which room may import which, what an import pulls in, whether every public name is there."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import funcrec

ROOT = Path(funcrec.__file__).parent
ARROWS = {
    "core": set(),
    "kernels": {"core"},
    "layers": {"kernels", "core"},
    "models": {"layers", "core"},
    "optim": {"core"},
    "losses": {"core"},
    "metrics": {"core"},
    "data": {"core"},
    "embedding": {"optim", "kernels", "core"},
    "transform": {"losses", "core"},
    "interop": {"models", "layers", "embedding", "optim", "losses", "metrics", "transform", "core"},
    "train": {"embedding", "optim", "losses", "metrics", "data", "core"},
    "shard": {"embedding", "optim", "metrics", "core"},
}
REGISTRY = {"funcrec.kernels", "funcrec.kernels.registry"}
# Heavy packages and the one room each may be imported in.
ONLY_IN = {"triton": "kernels", "torchrec": "shard", "fbgemm_gpu": "shard", "pyarrow": "data", "google": "interop"}
FILES = sorted(ROOT.rglob("*.py"))


def imports(file: Path):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute, so that arrows can be read"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_rooms_import_only_along_the_arrows():
    for file in FILES:
        parts = file.relative_to(ROOT).parts
        if len(parts) == 1:
            continue
        room = parts[0]
        for name in imports(file):
            if name.startswith("funcrec.") and (other := name.split(".")[1]) != room:
                assert other in ARROWS[room], f"{file}: {room} may not import {name}"
                if other == "kernels":
                    assert name in REGISTRY, f"{file}: {name}; {room} sees the kernels through their registry"
            if (package := name.split(".")[0]) in ONLY_IN:
                assert ONLY_IN[package] == room, f"{file}: {package} belongs to the room {ONLY_IN[package]}"
                if package == "triton":
                    assert parts[1] == "gpu", f"{file}: triton is imported in funcrec/kernels/gpu only"


def test_every_room_has_its_arrows():
    assert {p.name for p in ROOT.iterdir() if (p / "__init__.py").exists()} == set(ARROWS) == set(funcrec._ROOMS)


def test_importing_funcrec_pulls_in_nothing_heavy():
    code = "import sys, funcrec; print([m for m in ('torch', 'tensordict', 'triton', 'torchrec') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_rooms_load_without_optional_packages():
    """All modules but those of ``data`` and the kernels load without pyarrow, triton, torchrec and FBGEMM."""
    optional = ("funcrec.data", "funcrec.kernels.gpu")
    modules = [m.name for m in pkgutil.walk_packages([str(ROOT)], "funcrec.") if not m.name.startswith(optional)]
    code = (
        "import sys\n"
        "for name in ('pyarrow', 'torchrec', 'fbgemm_gpu', 'tyro', 'matplotlib', 'sklearn'): sys.modules[name] = None\n"
        f"import importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr[-2000:]


@pytest.mark.parametrize("room", sorted(ARROWS))
def test_public_names_exist_and_are_documented(room):
    module = importlib.import_module(f"funcrec.{room}")
    assert module.__doc__
    for name in getattr(module, "__all__", []):
        thing = getattr(module, name)
        if callable(thing) and getattr(thing, "__module__", "").startswith("funcrec"):
            assert thing.__doc__, f"funcrec.{room}.{name} has no docstring"


def test_an_unknown_room_is_named():
    with pytest.raises(AttributeError, match="has no attribute 'nn'"):
        _ = funcrec.nn
