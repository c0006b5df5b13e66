"""A tower over one group, written with torch's modules and loops: slow, plain, and under the original's names."""

from __future__ import annotations

import itertools
import math

import torch
from torch import nn
from torch.nn import functional as F


class Swap(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


class Dice(nn.Module):
    def __init__(self, n, steps):
        super().__init__()
        self.alpha, self.bn, self.steps = nn.Parameter(torch.zeros(n)), nn.BatchNorm1d(n, affine=False), steps

    def forward(self, x):
        normal = self.bn(x.transpose(1, 2)).transpose(1, 2) if self.steps else self.bn(x)
        p = torch.sigmoid(normal)
        return p * x + (1 - p) * self.alpha * x


class Layer(nn.Module):
    def __init__(self, n_in, n_out, message, steps):
        super().__init__()
        parts: list[nn.Module] = [nn.Linear(n_in, n_out, bias=message.bias and not message.use_bn)]
        if message.use_bn:
            norm = nn.BatchNorm1d(n_out)
            parts += [Swap(), norm, Swap()] if steps else [norm]
        if message.use_ln:
            parts.append(nn.LayerNorm(n_out))
        activations: dict[str, list[nn.Module]] = {
            "": [],
            "Dice": [Dice(n_out, steps)],
            "nn.PReLU": [nn.PReLU()],
            "nn.ReLU": [nn.ReLU()],
            "nn.Tanh": [nn.Tanh()],
            "nn.LeakyReLU(negative_slope=0.2)": [nn.LeakyReLU(0.2)],
        }
        self.perceptron = nn.Sequential(*parts, *activations[message.activation])

    def forward(self, x):
        return self.perceptron(x)


class Mlp(nn.Module):
    def __init__(self, n_in, message, steps=False):
        super().__init__()
        widths = [n_in, *message.hidden_units]
        self.mlp = nn.ModuleList(Layer(a, b, message, steps) for a, b in itertools.pairwise(widths))
        self.width = widths[-1]

    def forward(self, x):
        for layer in self.mlp:
            x = layer(x)
        return x


class Din(nn.Module):
    def __init__(self, q, d, c):
        super().__init__()
        self.mlp, self.most = Mlp(4 * d, c.attn_mlp, steps=True), c.max_seq_length
        self.linear = nn.Linear(self.mlp.width, 1)

    def forward(self, query, keys, lengths):
        keys = keys[:, : self.most] if self.most else keys
        query = F.pad(query, (0, keys.shape[2] - query.shape[1]))
        asked = query[:, None].expand_as(keys)
        scores = self.linear(self.mlp(torch.cat([asked, keys, asked - keys, asked * keys], -1)))[..., 0]
        rows = []
        for b, n in enumerate(lengths.clamp(max=keys.shape[1]).tolist()):
            weights = torch.softmax(scores[b, :n], 0)
            rows.append((weights[:, None] * keys[b, :n]).sum(0))
        return torch.stack(rows)


class Windows(nn.Module):
    def __init__(self, q, d, c):
        super().__init__()
        self.mlp = Mlp(3 * d, c.attn_mlp, steps=True)
        self.linear, self.active = nn.Linear(self.mlp.width, 1), nn.PReLU()
        self.windows_len: torch.Tensor
        self.cumsum_windows_len: torch.Tensor
        self.register_buffer("windows_len", torch.tensor(list(c.windows_len)))
        self.register_buffer("cumsum_windows_len", torch.tensor([0, *torch.tensor(list(c.windows_len)).cumsum(0)][:-1]))

    def forward(self, query, keys, lengths):
        query = F.pad(query, (0, keys.shape[2] - query.shape[1]))
        asked = query[:, None].expand_as(keys)
        weights = self.active(self.linear(self.mlp(torch.cat([keys, asked * keys, asked], -1))))
        rows = []
        for b, n in enumerate(lengths.tolist()):
            parts = []
            for start, size in zip(self.cumsum_windows_len.tolist(), self.windows_len.tolist(), strict=True):
                real = min(max(n - start, 0), size)
                steps = (weights[b] * keys[b])[start : start + real]
                parts.append(steps.sum(0) / max(real, 1))
            rows.append(torch.cat([*parts, query[b]]))
        return torch.stack(rows)


class SelfAttention(nn.Module):
    def __init__(self, q, d, c):
        super().__init__()
        a, self.most, self.heads = c.multihead_attn_dim, c.max_seq_length, c.num_heads
        self._query, self._key, self._value = nn.Linear(d, a), nn.Linear(d, a), nn.Linear(d, a)
        self._multihead_attn = nn.MultiheadAttention(a, self.heads, batch_first=True)

    def forward(self, query, keys, lengths):
        rows = []
        for b, n in enumerate(lengths.tolist()):
            x = keys[b, : min(n, self.most) if self.most else n]
            if len(x) == 0:
                rows.append(keys.new_zeros(self._query.out_features))
                continue
            m = self._multihead_attn
            q, k, v = (
                F.linear(own(x), w, bias)
                for own, w, bias in zip(
                    (self._query, self._key, self._value),
                    m.in_proj_weight.chunk(3),
                    m.in_proj_bias.chunk(3),
                    strict=True,
                )
            )
            size = q.shape[1] // self.heads
            mixed = [
                torch.softmax(q[:, h] @ k[:, h].T / math.sqrt(size), -1) @ v[:, h]
                for h in (slice(i * size, (i + 1) * size) for i in range(self.heads))
            ]
            rows.append(m.out_proj(torch.cat(mixed, -1)).sum(0) / n)  # n is the length before the cut
        return torch.stack(rows)


class Simple(nn.Module):
    def __init__(self, q, d, c):
        super().__init__()
        self.most = c.max_seq_length

    def forward(self, query, keys, lengths):
        rows = []
        for b, n in enumerate(lengths.tolist()):
            x = keys[b, : min(n, self.most) if self.most else n]
            rows.append((torch.softmax(x @ query[b], 0)[:, None] * x).sum(0))
        return torch.stack(rows)


class Pool(nn.Module):
    def __init__(self, q, d, c):
        super().__init__()
        self.most, self.mean = c.max_seq_length, c.pooling_type == "mean"

    def forward(self, query, keys, lengths):
        rows = []
        for b, n in enumerate(lengths.tolist()):
            x = keys[b, : min(n, self.most) if self.most else n]
            rows.append(x.sum(0) / (max(len(x), 1) if self.mean else 1))
        return torch.stack(rows)


ENCODERS = {
    "din_encoder": Din,
    "multi_window_din_encoder": Windows,
    "self_attention_encoder": SelfAttention,
    "simple_attention": Simple,
    "pooling_encoder": Pool,
}


def pooled(table, values, lengths, pooling):
    rows, at = [], 0
    for n in lengths.tolist():
        vectors = [table[i] for i in values[at : at + n].tolist()]
        at += n
        total = sum(vectors) if vectors else torch.zeros_like(table[0])
        rows.append(total / max(n, 1) if pooling == "mean" else total)
    return torch.stack(rows)


def padded(vectors, lengths):
    rows, longest, at = [], int(lengths.max()), 0
    for n in lengths.tolist():
        rows.append(torch.cat([vectors[at : at + n], vectors.new_zeros(longest - n, vectors.shape[1])]))
        at += n
    return torch.stack(rows)


class OneTower:
    """``multi_tower`` with one tower on the group ``all``, which may have a history."""

    def __init__(self, system, weights):
        config = system.config.model_config
        group, features = config.feature_groups[0], system.features
        self.features, self.names = features, list(group.feature_names)
        self.history = list(group.sequence_groups[0].feature_names) if group.sequence_groups else []
        self.tables = {
            k: v.clone().requires_grad_() for k, v in weights.items() if "bedding_bags" in k or "ec_dict" in k
        }
        query = sum(features[f].dim for f in self.history if not features[f].sequence)
        keys = sum(features[f].dim for f in self.history if features[f].sequence)
        kinds = [(e.WhichOneof("seq_module"), e) for e in group.sequence_encoders]
        self.encoders = nn.ModuleList(ENCODERS[k](query, keys, getattr(e, k)) for k, e in kinds)
        self.tower = Mlp(system.model.groups[0].width, config.multi_tower.towers[0].mlp)
        self.final = Mlp(self.tower.width, config.multi_tower.final)
        self.head = nn.Linear(self.final.width, system.n_classes)
        self.modules = {
            "towers.all.": self.tower,
            "final_mlp.": self.final,
            "output_mlp.": self.head,
            "embedding_group._group_name_to_seq_encoders.all.": self.encoders,
        }
        named = set(self.tables)
        for prefix, module in self.modules.items():
            own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
            module.double().load_state_dict(own, strict=True)
            named |= {prefix + k for k in own}
        assert named == set(weights)

    def table(self, feature, *, step):
        f = self.features[feature]
        base = "embedding_group.seq_emb_impls.__BASE__.ec_dict." if step else "embedding_group.emb_impls.__BASE__.ebc."
        return self.tables[
            f"{base}{f.dim}.embeddings.{f.table}.weight" if step else f"{base}embedding_bags.{f.table}.weight"
        ]

    def look_up(self, feature, inputs, *, step):
        f = self.features[feature]
        if not f.sparse:
            return inputs["dense"][feature]
        values, lengths = inputs["sparse"][feature]
        return pooled(self.table(feature, step=step), values, lengths, f.pooling)

    def steps(self, feature, inputs):
        f = self.features[feature]
        if not f.sparse:
            return padded(*inputs["sequence_dense"][feature])
        values, *rest = inputs["sparse"][feature]
        if f.bags:
            return padded(pooled(self.table(feature, step=True), values, rest[0], f.pooling), rest[1])
        return padded(self.table(feature, step=True)[values], rest[0])

    def logits(self, inputs, *, train):
        for module in self.modules.values():
            module.train(train)
        parts = [self.look_up(f, inputs, step=False) for f in self.names]
        if self.history:
            asked = [self.look_up(f, inputs, step=True) for f in self.history if not self.features[f].sequence]
            names = [f for f in self.history if self.features[f].sequence]
            first = (inputs["sparse"] | inputs["sequence_dense"])[names[0]]
            keys = torch.cat([self.steps(f, inputs) for f in names], -1)
            query = torch.cat(asked, -1) if asked else keys.new_zeros(len(keys), 0)
            parts += [encoder(query, keys, first[-1]) for encoder in self.encoders]
        return self.head(self.final(self.tower(torch.cat(parts, -1))))

    def gradients(self):
        found = {k: v.grad for k, v in self.tables.items()}
        for prefix, module in self.modules.items():
            found |= {prefix + k: p.grad for k, p in module.named_parameters()}
        return {k: g for k, g in found.items() if g is not None}

    def buffers(self):
        return {prefix + k: b for prefix, module in self.modules.items() for k, b in module.named_buffers()}
