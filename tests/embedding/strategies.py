"""Random specs and ids: shared, wide and mixed-dim groups; single, ragged, weighted and empty rows."""

import torch
from hypothesis import strategies as st

from funcrec.core.init import Normal
from funcrec.core.ragged import Ragged
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, Table

FEATURES = ("a", "b", "c")


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
    return EmbeddingSpec(tables=tables, groups=groups)


@st.composite
def ids_for(draw, spec, batch=None):
    """Ids that every table read by a feature can hold."""
    b = batch or draw(st.integers(1, 5))
    rows = {t.name: t.rows for t in spec.tables}
    out: dict[str, torch.Tensor | Ragged] = {}
    for f in spec.features:
        n = min(rows[lk.table] for g in spec.groups for lk in g.lookups if lk.feature == f)
        one = st.integers(0, n - 1)
        if draw(st.booleans()):
            out[f] = torch.tensor(draw(st.lists(one, min_size=b, max_size=b)))
        else:
            bags = draw(st.lists(st.lists(one, max_size=4), min_size=b, max_size=b))
            flat = torch.tensor([x for bag in bags for x in bag], dtype=torch.int64)
            weights = None
            if draw(st.booleans()):
                numbers = st.floats(0.25, 4.0, width=32)
                weights = torch.tensor(draw(st.lists(numbers, min_size=len(flat), max_size=len(flat))))
            out[f] = Ragged.from_lengths(flat, torch.tensor([len(x) for x in bags]), weights)
    return out


@st.composite
def problems(draw, dtype=torch.float64, batches=1):
    spec = draw(specs(dtype))
    return spec, [draw(ids_for(spec)) for _ in range(batches)]
