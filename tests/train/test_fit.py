"""What the best epoch was, it is again: everything that predictions depend on is kept."""

from __future__ import annotations

import torch

from funcrec import metrics, models, optim
from funcrec.core.groups import Group
from funcrec.core.init import Normal
from funcrec.core.random import key
from funcrec.embedding import ZchConfig, managed, rowwise_store, spec_for
from funcrec.losses import bce
from funcrec.optim import rowwise
from funcrec.train import FitConfig, Run, best_of, checkpoint, fit, make_step
from tests.train.tiny import ROWS, Rows, data, rows_of

TRAIN = Rows(data(50, 1, dtype=torch.float32))
VALID = Rows(rows_of(TRAIN.batch, 5, 46))


def test_the_best_epoch_keeps_the_rows_of_its_ids(tmp_path) -> None:
    """Ids of a managed table go on changing places: weights without the map of that moment are those of other ids."""
    m = models.dcn(models.DCNConfig(group=Group.of("all", list(ROWS), 4, ["x"]), cross_num=1))
    spec = spec_for(m.groups, ROWS | {"a": 4}, init=Normal(0.3))
    store = managed(rowwise_store(spec, rowwise.adagrad(0.1)), {"a": ZchConfig(policy="lru", interval=3)})
    step = make_step(m, store, optim.adam(lambda k: 0.02 if k < 15 else 0.4), bce)
    of_epoch, maps = [], []
    options = FitConfig(batch_size=7, epochs=6)
    for r in fit(Run(step.init(key(0))), step, TRAIN, options, valid=VALID, metrics={"auc": metrics.auc()}):
        if r.metrics:
            of_epoch.append(step.predict(r.run.train, VALID.batch))
            maps.append({name: held["ids"].clone() for name, held in r.run.train.tables["zch"].items()})
    assert r.run.best is not None
    best = r.run.best["epoch"]
    assert 0 < best < 5
    assert any(not torch.equal(ids, maps[-1][name]) for name, ids in maps[best].items())
    checkpoint.save(tmp_path, r.run, {})
    for run in (r.run, checkpoint.load(checkpoint.latest(tmp_path))[0]):
        assert torch.equal(step.predict(best_of(run), VALID.batch), of_epoch[best])
        assert torch.equal(step.predict(run.train, VALID.batch), of_epoch[-1])
