"""What all tests share: real data where it is at hand, one thread a worker, hypothesis without deadlines."""

import os
from pathlib import Path

os.environ.setdefault("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")  # a stale compiled graph was served once

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("funcrec", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("funcrec")
torch.set_num_threads(1)

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of research data sets; they belong to others and are no part of the repository."""
    if not REAL_DATA.is_dir():
        reason = "the research data sets are not on this machine"
        if os.environ.get("FUNCREC_REQUIRE_REAL_DATA"):
            pytest.fail(reason)
        pytest.skip(reason)
    return REAL_DATA
