"""What all tests share: real data where it is at hand, one thread a worker, hypothesis without deadlines."""

import importlib.util
import os
from pathlib import Path

os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")  # a stale compiled graph was served once

import pytest
import torch
from hypothesis import HealthCheck, settings

if importlib.util.find_spec("triton") and not torch.cuda.is_available():
    # Triton's own functions are interpreted or not for good, as it is imported; torch.compile would import it later.
    os.environ["TRITON_INTERPRET"] = "1"
    importlib.import_module("triton.language")
    del os.environ["TRITON_INTERPRET"]

settings.register_profile("funcrec", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("funcrec")
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared(name: str, what: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        reason = f"{what} are not on this machine"
        if os.environ.get("FUNCREC_REQUIRE_REAL_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of research data sets; they belong to others and are no part of the repository."""
    return _shared("data", "the research data sets")


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of configs, weights and numbers that TorchEasyRec computed."""
    return _shared("goldens", "the golden cases")
