"""Ranking models: a frozen config and a factory each."""

from funcrec.models.dcn import DCNConfig, dcn
from funcrec.models.dcn_v2 import DCNv2Config, dcn_v2
from funcrec.models.deepfm import DeepFMConfig, deepfm
from funcrec.models.din import DINConfig, din
from funcrec.models.dlrm import DLRMConfig, dlrm
from funcrec.models.fm import FMConfig, fm
from funcrec.models.lr import LRConfig, lr
from funcrec.models.masknet import MaskNetConfig, masknet
from funcrec.models.multi_tower import MultiTowerConfig, Tower, multi_tower
from funcrec.models.rocket_launching import RocketLaunchingConfig, rocket_launching
from funcrec.models.wide_and_deep import WideAndDeepConfig, wide_and_deep
from funcrec.models.wukong import WuKongConfig, wukong
from funcrec.models.xdeepfm import XDeepFMConfig, xdeepfm

__all__ = [
    "DCNConfig",
    "DCNv2Config",
    "DINConfig",
    "DLRMConfig",
    "DeepFMConfig",
    "FMConfig",
    "LRConfig",
    "MaskNetConfig",
    "MultiTowerConfig",
    "RocketLaunchingConfig",
    "Tower",
    "WideAndDeepConfig",
    "WuKongConfig",
    "XDeepFMConfig",
    "dcn",
    "dcn_v2",
    "deepfm",
    "din",
    "dlrm",
    "fm",
    "lr",
    "masknet",
    "multi_tower",
    "rocket_launching",
    "wide_and_deep",
    "wukong",
    "xdeepfm",
]
