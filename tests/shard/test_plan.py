"""Laws of plans: what is covered, what fits, what is obeyed, and what the errors say."""

import dataclasses
import itertools
import pickle
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funcrec.core.errors import ConfigError
from funcrec.embedding import EmbeddingGroup, EmbeddingSpec, Lookup, SequenceGroup, Table
from funcrec.shard import Constraint, parse_topology, plan
from funcrec.shard.costs import KINDS, TIMES
from funcrec.shard.options import table_options
from funcrec.shard.packing import Ranks

EVERY = Constraint(sharding=KINDS)
tables = st.lists(
    st.builds(
        lambda rows, dim, dtype: (rows, dim, dtype),
        st.integers(1, 3_000_000),
        st.sampled_from([4, 16, 64, 128, 192]),
        st.sampled_from([torch.float32, torch.float16]),
    ),
    min_size=1,
    max_size=6,
).map(lambda shapes: [Table(name=f"t{i}", rows=r, dim=d, dtype=t) for i, (r, d, t) in enumerate(shapes)])
topologies = st.sampled_from(["1xH200", "2xcpu", "3xH100", "8xH100", "2x4xH100", "12xH200", "16xH200"])
kinds = st.sets(st.sampled_from(KINDS), min_size=1).map(lambda s: Constraint(sharding=tuple(sorted(s))))


def copies(placement):
    """How often each cell of the table is held, as a grid over the borders of all shards."""
    table, shards = placement.table, placement.shards
    rows = sorted({0, table.rows, *(s.row_offset for s in shards), *(s.row_offset + s.rows for s in shards)})
    cols = sorted({0, table.dim, *(s.col_offset for s in shards), *(s.col_offset + s.cols for s in shards)})
    assert (rows[0], rows[-1], cols[0], cols[-1]) == (0, table.rows, 0, table.dim)
    held = np.zeros((len(rows) - 1, len(cols) - 1), dtype=int)
    for s in shards:
        r = slice(rows.index(s.row_offset), rows.index(s.row_offset + s.rows))
        held[r, cols.index(s.col_offset) : cols.index(s.col_offset + s.cols)] += 1
    return held


def or_error(make):
    try:
        return make()
    except ConfigError as error:
        return str(error)


@given(tables, topologies, kinds, st.sampled_from([None, "sgd", "adam"]))
@settings(max_examples=40, deadline=None)
def test_shards_cover_each_table_once_and_their_bytes_add_up(tables, topology, only, rule):
    made = or_error(lambda: plan(tables, topology, batch=64, rule=rule, default=only))
    if isinstance(made, str):
        assert "no sharding is possible" in made  # a kind that this table or topology can not have
        return
    ranks = made.setting.topology.ranks
    weights = np.zeros(ranks)
    for table, p in zip(tables, made.placements, strict=True):
        assert p.table == table
        assert p.kind in only.sharding
        assert (copies(p) == (ranks if p.kind == "data_parallel" else 1)).all()
        if p.kind != "data_parallel":
            assert len(set(p.ranks)) == len(p.ranks)
        for s in p.shards:
            weights[s.rank] += s.rows * s.cols * table.dtype.itemsize
        assert p.weight_bytes == sum(s.rows * s.cols for s in p.shards) * table.dtype.itemsize
    np.testing.assert_allclose(made.load[:, 0], weights, rtol=1e-12)
    assert made.load[:, 1].sum() == pytest.approx(sum(p.state_bytes for p in made.placements), rel=1e-12)
    assert made.step_time >= made.table_time >= made.rank_time.max() * (1 - 1e-12)
    assert made.imbalance >= 1 - 1e-12


@given(tables, st.sampled_from(["2xH200", "8xH100", "2x4xH100"]), st.floats(1.02, 2))
@settings(max_examples=40, deadline=None)
def test_no_rank_is_filled_beyond_its_capacity(tables, topology, slack):
    need = plan(tables, topology, batch=16).rank_bytes.mean() * slack
    tight = dataclasses.replace(parse_topology(topology), memory=need)
    made = or_error(lambda: plan(tables, tight, batch=16, reserve=0.0))
    if isinstance(made, str):
        assert re.search(r"table 't\d'.*short by [\d,.]+ GB \([\d,]+ bytes\)", made)
    else:
        assert made.rank_bytes.max() <= need + 1


@given(tables, st.integers(1, 12), st.floats(0.3, 1.5))
@settings(max_examples=30, deadline=None)
def test_one_more_rank_never_makes_a_plan_impossible(tables, ranks, memory):
    # Of one global batch: more rows in all need larger buffers.
    def fits(n):
        machines = dataclasses.replace(parse_topology(f"{n}xH100"), memory=memory * 1e9)
        return not isinstance(or_error(lambda: plan(tables, machines, batch=360360 // n)), str)

    assert fits(ranks + 1) or not fits(ranks)


@given(tables.flatmap(lambda ts: st.tuples(st.just(ts), st.permutations(ts))), topologies)
@settings(max_examples=30, deadline=None)
def test_the_order_of_tables_does_not_matter(orders, topology):
    one, other = (plan(tables, topology, batch=64) for tables in orders)
    assert {p.table.name: p for p in one.placements} == {p.table.name: p for p in other.placements}
    np.testing.assert_allclose(one.load, other.load, rtol=1e-12)
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize(("topology", "memory"), [("8xH100", 80e9), ("2x4xH200", 1.3e9)])
def test_no_table_alone_could_be_placed_better(topology, memory):
    draw = random.Random(0)
    some = [Table(name=f"t{i}", rows=int(10 ** draw.uniform(1, 6)), dim=draw.choice([32, 128])) for i in range(50)]
    made = plan(some, parse_topology(topology, memory=memory), batch=1024)
    ranks = Ranks(made.setting.topology, made.capacity - made.local_bytes)
    for p in made.placements:
        ranks.put(p.option, p.first_ranks)
    for table, p in zip(some, made.placements, strict=True):
        ranks.put(p.option, p.first_ranks, -1)
        for option in table_options(table, p.use, Constraint(), made.setting):
            if not isinstance(places := ranks.find(option), float):
                ranks.put(option, places)
                assert ranks.load[:, TIMES].max(0).sum() >= made.table_time * (1 - 1e-8)
                ranks.put(option, places, -1)
        ranks.put(p.option, p.first_ranks)


def test_column_shards_are_taken_for_rules_of_single_entries_only_unless_asked_for():
    big = [Table(name="a", rows=10**6, dim=256), Table(name="b", rows=10**3, dim=256)]
    by_rule = {
        rule: plan(big, "2xH200", batch=4096, rule=rule)["a"].kind for rule in ("sgd", "rowwise_adagrad", "lamb")
    }
    assert by_rule["sgd"] == "column_wise"
    assert "column_wise" not in (by_rule["rowwise_adagrad"], by_rule["lamb"])
    assert plan(big, "2xH200", batch=4096, default=EVERY)["a"].kind == "column_wise"


def test_constraints_are_obeyed():
    some = [Table(name=f"t{i}", rows=10**5, dim=128) for i in range(4)]
    asked = {f"t{i}": Constraint(sharding=(kind,)) for i, kind in enumerate(KINDS[:3])}
    made = plan(some, "2x4xH100", batch=64, constraints={**asked, "t3": Constraint(sharding=("grid",), columns=64)})
    assert [p.kind for p in made.placements] == [*KINDS[:3], "grid"]
    assert {s.cols for s in made["t3"].shards} == {64}


@pytest.mark.parametrize(
    ("constraint", "topology"),
    [
        (Constraint(sharding=("column_wise",)), "8xH100"),  # dim 20 has no columns of 32
        (Constraint(sharding=("column_wise",), columns=8), "8xH100"),
        (Constraint(sharding=("grid",), columns=4), "8xH100"),  # one host
        (Constraint(sharding=("table_row_wise",)), "12xH100"),  # hosts of 8 and 4
    ],
)
def test_an_impossible_constraint_names_the_table(constraint, topology):
    with pytest.raises(ConfigError, match=f"'odd'.*{constraint.sharding[0]}"):
        plan([Table(name="odd", rows=10, dim=20)], topology, batch=8, constraints={"odd": constraint})


def test_what_fbgemm_cannot_shard_is_data_parallel():
    odd, few = Table(name="odd", rows=10**6, dim=6), Table(name="few", rows=5, dim=64)
    made = plan([odd, few], "4xcpu", batch=64)
    assert made["odd"].kind == "data_parallel"
    for table in (odd, few):
        with pytest.raises(ConfigError, match=rf"table {table.name!r}.*data_parallel is always possible"):
            plan([table], "4xcpu", batch=64, default=Constraint(sharding=("row_wise",)))
    assert plan([few], "4xH100", batch=64, default=Constraint(sharding=("row_wise",)))["few"].kind == "row_wise"


def test_sequences_are_not_sharded_by_host():
    spec = EmbeddingSpec(
        tables=(Table(name="item", rows=10**7, dim=64), Table(name="user", rows=10**7, dim=64)),
        groups=(EmbeddingGroup(name="deep", lookups=(Lookup(feature="user", table="user"),)),),
        sequences=(SequenceGroup(name="hist", lookups=(Lookup(feature="clicks", table="item"),)),),
    )
    host = Constraint(sharding=("table_row_wise",))
    made = plan(spec, "2x4xH100", batch=256, features={"clicks": 30}, constraints={"user": host})
    assert made["user"].kind == "table_row_wise"
    assert made["item"].kind not in ("table_row_wise", "grid")
    with pytest.raises(ConfigError, match=r"table 'item'.*no sequences"):
        plan(spec, "2x4xH100", batch=256, default=host)


def test_errors_name_the_table_and_what_is_missing():
    small, big = Table(name="small", rows=10, dim=8), Table(name="big", rows=10**9, dim=256)
    with pytest.raises(ConfigError, match=r"table 'big' .* as row_wise.*short by ([\d,.]+) GB \([\d,]+ bytes\) a rank"):
        plan([small, big], "8xH100", batch=8)
    many = [Table(name=f"t{i}", rows=10**8 + i, dim=128) for i in range(12)]
    with pytest.raises(ConfigError, match=r"12 tables do not fit.*table 't11'.*short by 7\d\.\d+ GB"):
        plan(many, "8xH100", batch=8)
    whole = Constraint(sharding=("table_wise",))
    with pytest.raises(ConfigError, match=r"table 't\d+' found no rank.*short by \d"):
        plan(many[:9], "8xH100", batch=8, default=whole)
    with pytest.raises(ConfigError, match=r"table 'bog'.*\['big', 'small'\]"):
        plan([small, big], "128xH200", batch=8, constraints={"bog": whole})
    with pytest.raises(ConfigError, match=r"repeat|once"):
        plan([small, small], "8xH100", batch=8)
    for bad in ({"reserve": 1.0}, {"dense_bytes": -1}, {"batch": 0}, {"rule": "adamw"}, {"dense_bytes": 70e9}):
        with pytest.raises(ConfigError):
            plan([small], "8xH100", **{"batch": 8, **bad})


def test_a_plan_of_a_trillion_parameters_is_made_printed_and_drawn(tmp_path):
    huge = [Table(name=f"huge{i}", rows=10**9 * (1 + i), dim=64 << i) for i in range(3)]
    rest = [Table(name=f"t{i}", rows=100_000 * (1 + i % 7), dim=(64, 128, 256)[i % 3]) for i in range(1000)]
    made = plan([*huge, *rest], "128xH200", batch=512)
    assert sum(p.table.rows * p.table.dim for p in made.placements) > 10**12
    assert made.rank_bytes.max() <= made.capacity
    text = str(made)
    assert len(text.splitlines()) < 80
    for part in ("1,003 tables", "huge2", "row_wise", "max/mean", "step", "assumed"):
        assert part in text
    made.picture(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 10_000


def test_planning_imports_neither_torchrec_nor_matplotlib():
    code = (
        "import sys\nfrom funcrec.embedding import Table\nfrom funcrec.shard import plan\n"
        "str(plan([Table(name='t', rows=9, dim=4)], '2xcpu', batch=4))\n"
        "print([m for m in ('torchrec', 'fbgemm_gpu', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("dims", [(192, 192, 128, 128, 128), (256, 128, 128, 64, 64, 64, 64, 64), (192, 128, 128, 64)])
@pytest.mark.parametrize("ranks", [2, 3])
def test_whole_tables_are_dealt_out_as_well_as_any_way_that_there_is(dims, ranks):
    """Longest first leaves 3 + 2 + 2 beside 3 + 2, where no table alone can move."""
    whole = Constraint(sharding=("table_wise",))
    made = plan(
        [Table(name=f"t{i}", rows=100_000, dim=d) for i, d in enumerate(dims)],
        f"{ranks}xH100",
        batch=8192,
        default=whole,
    )
    times = []
    for at in itertools.product(range(ranks), repeat=len(dims)):
        dealt = Ranks(made.setting.topology, np.inf)
        for p, rank in zip(made.placements, at, strict=True):
            dealt.put(p.option, (rank,))
        times.append(float(dealt.load[:, TIMES].max(0).sum()))
    assert made.table_time <= min(times) * (1 + 1e-9)
