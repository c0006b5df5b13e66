"""Ranking models: a frozen config and a factory each."""

from funcrec.models.dcn_v2 import DCNv2Config, dcn_v2
from funcrec.models.deepfm import DeepFMConfig, deepfm
from funcrec.models.dlrm import DLRMConfig, dlrm
from funcrec.models.fm import FMConfig, fm
from funcrec.models.lr import LRConfig, lr

__all__ = [
    "DCNv2Config",
    "DLRMConfig",
    "DeepFMConfig",
    "FMConfig",
    "LRConfig",
    "dcn_v2",
    "deepfm",
    "dlrm",
    "fm",
    "lr",
]
