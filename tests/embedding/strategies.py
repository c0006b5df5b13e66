"""Random specs and ids: shared, wide and mixed-dim groups; single, ragged, weighted and empty rows."""

import torch
from hypothesis import strategies as st

from funcrec.core.init import Normal
from funcrec.core.ragged import Nested, Ragged
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, SequenceGroup, Table

FEATURES = ("a", "b", "c")
HISTORY = ("h", "k")
"""Features of one history: as many ids a row as each other."""


@st.composite
def specs(draw, dtype=torch.float64):
    """Two to four tables of dims 1-3, and up to three groups that read them with any sharing."""
    tables = tuple(
        Table(
            name=f"t{i}",
            rows=draw(st.integers(1, 6)),
            dim=draw(st.sampled_from([1, 2, 2, 3])),
            init=Normal(1.0),
            dtype=dtype,
        )
        for i in range(draw(st.integers(1, 4)))
    )
    lookups = st.builds(
        lambda f, t, p: Lookup(feature=f, table=t, pooling=p),
        st.sampled_from(FEATURES),
        st.sampled_from([t.name for t in tables]),
        st.sampled_from(["sum", "mean"]),
    )
    groups = tuple(
        EmbeddingGroup(name=f"g{i}", lookups=tuple(draw(st.lists(lookups, min_size=1, max_size=4))))
        for i in range(draw(st.integers(1, 3)))
    )
    histories = st.builds(
        lambda f, t, p: Lookup(feature=f, table=t, pooling=p),
        st.sampled_from(HISTORY),
        st.sampled_from([t.name for t in tables]),
        st.sampled_from(["sum", "mean"]),
    )
    sequences = tuple(
        SequenceGroup(
            name=f"s{i}",
            lookups=tuple(draw(st.lists(histories, min_size=1, max_size=3))),
            pad_to=draw(st.sampled_from([None, 5])),
        )
        for i in range(draw(st.integers(0, 2)))
    )
    return EmbeddingSpec(tables=tables, groups=groups, sequences=sequences)


@st.composite
def bags_of(draw, one, n):
    """n bags of up to four ids, weighted or not."""
    bags = draw(st.lists(st.lists(one, max_size=4), min_size=n, max_size=n))
    flat = torch.tensor([x for bag in bags for x in bag], dtype=torch.int64)
    weights = None
    if draw(st.booleans()):
        numbers = st.floats(0.25, 4.0, width=32)
        weights = torch.tensor(draw(st.lists(numbers, min_size=len(flat), max_size=len(flat))))
    return Ragged.from_lengths(flat, torch.tensor([len(x) for x in bags], dtype=torch.int64), weights)


@st.composite
def ids_for(draw, spec, batch=None):
    """Ids that every table read by a feature can hold."""
    b = batch or draw(st.integers(1, 5))
    rows = {t.name: t.rows for t in spec.tables}
    out: dict[str, torch.Tensor | Ragged | Nested] = {}
    steps = torch.tensor(draw(st.lists(st.integers(0, 4), min_size=b, max_size=b)))
    for f in spec.features:
        n = min(rows[lk.table] for g in (*spec.groups, *spec.sequences) for lk in g.lookups if lk.feature == f)
        one = st.integers(0, n - 1)
        if f in HISTORY:
            total = int(steps.sum())
            if draw(st.booleans()):
                flat = torch.tensor(draw(st.lists(one, min_size=total, max_size=total)), dtype=torch.int64)
                out[f] = Ragged.from_lengths(flat, steps)
            else:
                out[f] = Nested.from_lengths(draw(bags_of(one, total)), steps)
        elif draw(st.booleans()):
            out[f] = torch.tensor(draw(st.lists(one, min_size=b, max_size=b)))
        else:
            out[f] = draw(bags_of(one, b))
    return out


@st.composite
def problems(draw, dtype=torch.float64, batches=1):
    spec = draw(specs(dtype))
    return spec, [draw(ids_for(spec)) for _ in range(batches)]
