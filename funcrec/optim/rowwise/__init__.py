"""Row rules: pure optimizer steps on the gathered, de-duplicated rows of an embedding table.

Each has the semantics of the FBGEMM optimizer of its name. The names repeat those of the dense optimizers, so import
the module: ``from funcrec.optim import rowwise``, then ``rowwise.adagrad(0.01)``.
"""

from funcrec.optim.rowwise.adagrad import WeightDecayMode, adagrad, rowwise_adagrad, sgd
from funcrec.optim.rowwise.adam import adam, lamb, partial_rowwise_adam, partial_rowwise_lamb
from funcrec.optim.rowwise.lars import lars_sgd
from funcrec.optim.rowwise.rule import RowRule, Slot

__all__ = [
    "RowRule",
    "Slot",
    "WeightDecayMode",
    "adagrad",
    "adam",
    "lamb",
    "lars_sgd",
    "partial_rowwise_adam",
    "partial_rowwise_lamb",
    "rowwise_adagrad",
    "sgd",
]
