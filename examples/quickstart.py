"""The functional API in one page: init, apply, gradients of weights and embeddings, an ensemble by vmap, a loop."""

import torch
from torch.func import grad_and_value, vmap

from funcrec import losses, metrics, models, optim
from funcrec.core import random, tree
from funcrec.core.groups import Group
from funcrec.data import planted
from funcrec.embedding import rowwise_store, spec_for
from funcrec.layers.mlp import MLPConfig

data = planted(random.key(0), 100_000, valid_rows=10_000, test_rows=10_000)
fields = data.train.fields

# A model is a config and two pure functions; it sees groups of fields, never an id or a table.
ids, dense = list(fields.rows), list(fields.dense)
model = models.dlrm(
    models.DLRMConfig(
        sparse=Group.of("sparse", ids, 8),
        dense=Group.of("dense", [], 8, dense),
        dense_mlp=MLPConfig(hidden_units=(32, 8)),
        final=MLPConfig(hidden_units=(64, 32)),
    )
)
params, state = model.init(random.key(1))

# Tables live in a store: lookup gives embeddings, update takes their gradient back.
store = rowwise_store(spec_for(model.groups, fields.rows), optim.rowwise.adagrad(0.05))
tables = store.init(random.key(2))


def objective(params, emb, features):
    logits, _ = model.apply(params, emb, features, state, train=True)
    return losses.bce(logits, features["label"])


# argnums=(0, 1): the gradient with respect to everything there is to learn.
gradient = grad_and_value(objective, argnums=(0, 1))
optimizer = optim.adam(2e-3)
opt_state = optimizer.init(tree.leaves(params), tree.paths(params))
for epoch in range(3):
    for batch in data.train.batches(1024, key=random.fold_in(random.key(3), epoch)):
        emb, touched = store.lookup(tables, batch.ids)
        (d_params, d_emb), loss = gradient(params, emb, batch.features)
        leaves, opt_state = optimizer.step(tree.leaves(d_params), opt_state, tree.leaves(params))
        params = tree.unflatten(tree.paths(params), leaves)
        tables = store.update(tables, touched, d_emb)

    valid = next(data.valid.batches(10_000))
    emb, _ = store.lookup(tables, valid.ids)
    logits, _ = model.apply(params, emb, valid.features, state)
    auc = metrics.auc()
    value = auc.compute(auc.update(auc.init(), logits[:, 0], valid.features["label"]))
    print(f"epoch {epoch + 1}: AUC {float(value):.4f}, best possible {data.best_auc['valid']:.4f}")

# Five models at once: stack their parameters and map over them.
members = tree.stack([model.init(k)[0] for k in random.split(random.key(4), 5)])
ensemble = vmap(lambda p: model.apply(p, emb, valid.features, state)[0])(members)
print("logits of five models:", tuple(ensemble.shape))
# Per-example gradients: map the gradient over the rows of a batch.
per_row = vmap(lambda e, f: grad_and_value(objective)(params, e.unsqueeze(0), f.unsqueeze(0))[0])
norms = torch.stack([g.flatten(1).square().sum(1) for g in tree.leaves(per_row(emb[:8], valid.features[:8]))]).sum(0)
print("gradient norms of eight rows:", [round(float(n) ** 0.5, 3) for n in norms])
