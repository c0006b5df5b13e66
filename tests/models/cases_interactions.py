"""Entries of the model contract for WideAndDeep, DCN, xDeepFM, MaskNet and WuKong."""

from funcrec.core.groups import Field, Group
from funcrec.layers.mask_block import MaskBlockConfig
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.wukong_layer import WuKongLayerConfig
from funcrec.models.dcn import DCNConfig, dcn
from funcrec.models.masknet import MaskNetConfig, masknet
from funcrec.models.wide_and_deep import WideAndDeepConfig, wide_and_deep
from funcrec.models.wukong import WuKongConfig, wukong
from funcrec.models.xdeepfm import XDeepFMConfig, xdeepfm
from tests.models.cases import BN, BOTH, BOTTOM, DEEP, DROP, IDS, MIXED, MLP, NUMBERS, SPARSE, WIDE, Case

TOP = MLPConfig(hidden_units=(4,), activation="nn.Tanh")
UNEQUAL = Group("wide", (Field("a", 1), Field("b", 4), Field("c", 2)))
BLOCKS = (MaskBlockConfig(hidden_dim=4, reduction_ratio=0.5), MaskBlockConfig(hidden_dim=3, aggregation_dim=5))
DROPPED = (MaskBlockConfig(hidden_dim=5, bias=False, dropout=0.3),) * 2
LAYERS = (WuKongLayerConfig(lcb=2, fmb=2, k=3, mlp=MLP), WuKongLayerConfig(lcb=1, fmb=2, k=2, mlp=TOP))
BN_LAYER = WuKongLayerConfig(lcb=1, fmb=2, k=2, mlp=BN)
DROP_LAYER = WuKongLayerConfig(lcb=2, fmb=1, k=2, mlp=DROP)

CASES = {
    "wide_and_deep": Case(wide_and_deep, WideAndDeepConfig(wide=WIDE, deep=BOTH, deep_mlp=MLP)),
    "wide_and_deep_final": Case(wide_and_deep, WideAndDeepConfig(wide=UNEQUAL, deep=BOTH, deep_mlp=MLP, final=TOP)),
    "wide_and_deep_classes": Case(wide_and_deep, WideAndDeepConfig(wide=WIDE, deep=DEEP, deep_mlp=BN, n_classes=3)),
    "wide_and_deep_dropout": Case(wide_and_deep, WideAndDeepConfig(wide=WIDE, deep=DEEP, deep_mlp=DROP), True),
    "dcn": Case(dcn, DCNConfig(group=MIXED, deep=MLP, final=TOP)),
    "dcn_without_final": Case(dcn, DCNConfig(group=BOTH, cross_num=2, deep=BN, head_bias=True, n_classes=2)),
    "dcn_cross_only": Case(dcn, DCNConfig(group=BOTH, cross_num=1)),
    "xdeepfm": Case(xdeepfm, XDeepFMConfig(cin_group=WIDE, cin_layer_size=(4, 3), deep=BOTH, deep_mlp=MLP, final=TOP)),
    "xdeepfm_shared": Case(
        xdeepfm, XDeepFMConfig(cin_group=DEEP, cin_layer_size=(2, 3), deep=DEEP, deep_mlp=MLP, wide=WIDE, n_classes=2)
    ),
    "xdeepfm_cin_only": Case(xdeepfm, XDeepFMConfig(cin_group=WIDE, cin_layer_size=(3,))),
    "xdeepfm_dropout": Case(
        xdeepfm, XDeepFMConfig(cin_group=WIDE, cin_layer_size=(3,), deep=DEEP, deep_mlp=DROP, final=BN), True
    ),
    "masknet": Case(masknet, MaskNetConfig(group=MIXED, blocks=BLOCKS, top_mlp=MLP)),
    "masknet_serial": Case(masknet, MaskNetConfig(group=BOTH, blocks=BLOCKS, parallel=False, n_classes=2)),
    "masknet_dropout": Case(
        masknet, MaskNetConfig(group=DEEP, blocks=DROPPED, input_norm="field", top_mlp=BN, head_bias=True), True
    ),
    "wukong": Case(wukong, WuKongConfig(sparse=SPARSE, dense=NUMBERS, dense_mlp=BOTTOM, layers=LAYERS, final=MLP)),
    "wukong_bn": Case(wukong, WuKongConfig(sparse=SPARSE, layers=(BN_LAYER,), final=MLP, n_classes=2)),
    "wukong_dropout": Case(
        wukong, WuKongConfig(sparse=Group.of("sparse", IDS, 2), layers=(DROP_LAYER,) * 2, final=BN), True
    ),
}
