"""Encoders of histories, with the quirks that the original's have."""

from __future__ import annotations

from funcrec.core.groups import Encoder
from funcrec.interop.easyrec.messages import Message, shortest
from funcrec.interop.easyrec.mlps import mlp_config
from funcrec.layers.din_attention import DINEncoder
from funcrec.layers.multi_window_din import MultiWindowDINEncoder
from funcrec.layers.self_attention import SelfAttentionEncoder
from funcrec.layers.sequence_pooling import PoolingEncoder
from funcrec.layers.simple_attention import SimpleAttention


def encoder(message: Message, where: str) -> Encoder:
    """The encoder that an entry of ``sequence_encoders`` names, with the original's statistics and divisors."""
    kind = message.WhichOneof("seq_module")
    c = getattr(message, kind)
    if kind == "din_encoder":
        return DINEncoder(
            attn_mlp=mlp_config(c, "attn_mlp", where), max_seq_length=c.max_seq_length, padding_in_statistics=True
        )
    if kind == "multi_window_din_encoder":
        attn = mlp_config(c, "attn_mlp", where)
        return MultiWindowDINEncoder(windows_len=tuple(c.windows_len), attn_mlp=attn, padding_in_statistics=True)
    if kind == "self_attention_encoder":
        return SelfAttentionEncoder(
            dim=c.multihead_attn_dim,
            num_heads=c.num_heads,
            dropout=shortest(c.dropout),
            max_seq_length=c.max_seq_length,
            divide_by_untruncated=True,
        )
    if kind == "simple_attention":
        return SimpleAttention(max_seq_length=c.max_seq_length)
    return PoolingEncoder(pooling=c.pooling_type, max_seq_length=c.max_seq_length)
