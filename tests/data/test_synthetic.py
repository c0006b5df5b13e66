"""Planted data: its teacher is the best ranking, linear models stay behind, and files give back the same rows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from funcrec.core import random
from funcrec.core.errors import ConfigError
from funcrec.data import InMemory, Planted, Source, Vocabularies, load, planted

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def data() -> Planted:
    return planted(random.key(3), 20_000, valid_rows=500, test_rows=10_000)


def arrays(part: InMemory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = torch.stack([x for x in part.rows.ids.values() if isinstance(x, torch.Tensor)], 1)
    dense = torch.cat(list(part.rows.features["dense"].values()), 1)
    return ids.numpy(), dense.numpy(), part.rows.features["label"].numpy()


def test_the_best_auc_is_that_of_the_teacher(data: Planted) -> None:
    for split in SPLITS:
        labels = getattr(data, split).rows.features["label"].numpy()
        assert data.best_auc[split] == pytest.approx(roc_auc_score(labels, data.logits[split].numpy()), abs=1e-12)
        assert 0.78 < data.best_auc[split] < 0.88


def test_labels_are_draws_of_the_teachers_probabilities(data: Planted) -> None:
    p, y = torch.sigmoid(data.logits["train"]), data.train.rows.features["label"].double()
    for part in (p < 0.3, (p >= 0.3) & (p < 0.6), p >= 0.6):
        spread = float((p[part] * (1 - p[part])).sum().sqrt() / part.sum())
        assert float(y[part].mean() - p[part].mean()) == pytest.approx(0, abs=4.5 * spread)


def test_a_linear_model_stays_behind_and_the_planted_pairs_make_the_difference(data: Planted) -> None:
    ids, dense, labels = arrays(data.train)
    test_ids, test_dense, test_labels = arrays(data.test)
    coder = OneHotEncoder(sparse_output=False).fit(ids)
    train, test = (np.hstack([coder.transform(i), z]) for i, z in ((ids, dense), (test_ids, test_dense)))
    linear = LogisticRegression(max_iter=200).fit(train, labels)
    auc = roc_auc_score(test_labels, linear.decision_function(test))
    assert 0.6 < auc < data.best_auc["test"] - 0.03
    # Within the linear residual, cells of a planted pair differ by more than chance; those of an idle pair do not.
    residual = labels - linear.predict_proba(train)[:, 1]
    names = list(data.train.rows.ids)

    def excess(first: str, second: str) -> float:
        cells = ids[:, names.index(first)] * 100 + ids[:, names.index(second)]
        _, where = np.unique(cells, return_inverse=True)
        sums, sizes = np.bincount(where, residual), np.bincount(where)
        return float((sums**2 / sizes).mean() / residual.var())

    idle = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :] if (a, b) not in data.pairs]
    in_triples = {(a, b) for t in data.triples for a in t for b in t}
    chance = max(excess(*pair) for pair in idle if pair not in in_triples)
    assert np.median([excess(*pair) for pair in data.pairs]) > 1.5 * chance


def test_parts_are_scaled_as_asked() -> None:
    args = {"rows": 4000, "valid_rows": 10, "test_rows": 10, "bias": 0.25}
    key = random.key(0)
    parts = {
        name: planted(key, **args, **(dict.fromkeys(("linear", "pairwise", "triple"), 0.0) | {name: 1.5}))  # type: ignore[arg-type]
        for name in ("linear", "pairwise", "triple")
    }
    whole = planted(key, **args, linear=1.5, pairwise=1.5, triple=1.5)  # type: ignore[arg-type]
    logits = {name: torch.cat([p.logits[s] for s in SPLITS]) - 0.25 for name, p in parts.items()}
    for part in logits.values():
        assert float(part.mean()) == pytest.approx(0, abs=1e-9)
        assert float(part.std(correction=0)) == pytest.approx(1.5)
    total = torch.cat([whole.logits[s] for s in SPLITS]) - 0.25
    torch.testing.assert_close(total, sum(logits.values()))


def test_the_key_decides_everything() -> None:
    draw = lambda seed: planted(random.key(seed), 200, valid_rows=5, test_rows=5)  # noqa: E731
    assert torch.equal(draw(1).logits["train"], draw(1).logits["train"])
    assert torch.equal(draw(1).train.rows.features["label"], draw(1).train.rows.features["label"])
    assert not torch.equal(draw(1).logits["train"], draw(2).logits["train"])


@pytest.mark.parametrize("compress", [False, True])
def test_files_give_back_the_same_rows(tmp_path: Path, compress: bool) -> None:
    data = planted(random.key(1), 300, valid_rows=20, test_rows=20)
    for split, path in data.write_csv(tmp_path / "planted", compress=compress).items():
        assert path.endswith(".csv.gz" if compress else ".csv")
        again = load(data.schema, Source(paths=(path,)), Vocabularies())
        expected: InMemory = getattr(data, split)
        assert again.fields == expected.fields
        assert again.rows.features.keys() == expected.rows.features.keys()
        assert bool((again.rows.features == expected.rows.features).all())
        for name, ids in expected.rows.ids.items():
            found = again.rows.ids[name]
            assert isinstance(ids, torch.Tensor)
            assert isinstance(found, torch.Tensor)
            assert torch.equal(found, ids)


def test_draws_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="three fields or more"):
        planted(random.key(0), 10, categories=(3, 4))
    with pytest.raises(ConfigError, match="at least one row"):
        planted(random.key(0), 10, test_rows=0)
