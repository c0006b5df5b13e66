"""MultiTower and DIN, with encoders, learned numbers and variational dropout in their groups, for the contract."""

from __future__ import annotations

from funcrec.core.groups import Encoded, Field, Group, Sequence
from funcrec.layers.autodis import AutoDis
from funcrec.layers.din_attention import DINEncoder
from funcrec.layers.linear_number import LinearNumber
from funcrec.layers.mlp import MLPConfig
from funcrec.layers.multi_window_din import MultiWindowDINEncoder
from funcrec.layers.self_attention import SelfAttentionEncoder
from funcrec.layers.sequence_pooling import PoolingEncoder
from funcrec.layers.simple_attention import SimpleAttention
from funcrec.models.din import DINConfig, din
from funcrec.models.multi_tower import MultiTowerConfig, Tower, multi_tower
from tests.models.cases import BN, DROP, IDS, MLP, Case

USER = Group("user", (Field("user", 3), Field("age", 1, dense=True), Field("city", 2)))
ITEM = Group.of("item", IDS, 2)
CLICKS = Sequence("click", (Field("item", 3), Field("cate", 2)), (Field("click_item", 3), Field("click_cate", 3)))
TIMED = Sequence("buy", (Field("item", 2),), (Field("buy_item", 2), Field("ts", 1, dense=True)))
SQUARE = Sequence("cart", (Field("item", 3),), (Field("cart_item", 3),))
BARE = Sequence("view", (), (Field("view_item", 2),))
ATTENTION = MLPConfig(hidden_units=(4, 3), activation="nn.Tanh")
DICE = MLPConfig(hidden_units=(4,), activation="Dice", use_bn=True)

# A softmax does not see a bias that all scores share, so these weights have no gradient: the scores stay as they are.
DIN = DINEncoder(attn_mlp=ATTENTION, softmax=False)
CHEAP = Group("numbers", (Field("x", 3, dense=True, number=AutoDis(num_channels=3, temperature=0.9)), *ITEM.fields))
SPLIT = Group("split", (Field("pair", 2, dense=True, number=LinearNumber(), width=2),), (Encoded(SQUARE, DIN),), True)
ENCODED = Group(
    "encoded",
    USER.fields,
    (
        Encoded(SQUARE, SimpleAttention(max_seq_length=2)),
        Encoded(BARE, PoolingEncoder()),
        Encoded(TIMED, MultiWindowDINEncoder(windows_len=(1, 3), attn_mlp=ATTENTION)),
    ),
)

CASES = {
    "multi_tower": Case(multi_tower, MultiTowerConfig(towers=(Tower(USER, MLP), Tower(ITEM)), final=MLP, n_classes=2)),
    "multi_tower_dropout": Case(
        multi_tower, MultiTowerConfig(towers=(Tower(USER, DROP), Tower(ITEM, BN)), final=BN), True
    ),
    "multi_tower_variational": Case(multi_tower, MultiTowerConfig(towers=(Tower(SPLIT, MLP),), final=MLP), True),
    "multi_tower_encoders": Case(
        multi_tower, MultiTowerConfig(towers=(Tower(ENCODED, MLP), Tower(CHEAP, MLP)), final=MLP)
    ),
    "din_only": Case(din, DINConfig(interests=(Encoded(CLICKS, DIN),), final=MLP)),
    "din_dice": Case(
        din,
        DINConfig(
            towers=(Tower(USER, MLP),),
            interests=(Encoded(CLICKS, DINEncoder(attn_mlp=DICE, softmax=False)), Encoded(TIMED, DIN)),
            final=BN,
        ),
    ),
    "din_softmax": Case(
        din,
        DINConfig(
            towers=(Tower(USER, MLP), Tower(ITEM)),
            interests=(
                Encoded(TIMED, DINEncoder(attn_mlp=MLPConfig(hidden_units=(3,), use_ln=True, activation="nn.Tanh"))),
                Encoded(BARE, SelfAttentionEncoder(dim=4, num_heads=2, dropout=0.2)),
            ),
            final=MLP,
        ),
        True,
    ),
}
