"""TorchEasyRec's pipeline configs and weights: read one, and train, evaluate or differentiate it here.

>>> from funcrec.core.random import key
>>> system = parse('''
... data_config { label_fields: "label" }
... feature_configs { id_feature { feature_name: "user" num_buckets: 10 embedding_dim: 4 } }
... feature_configs { raw_feature { feature_name: "age" } }
... model_config {
...   feature_groups { group_name: "all" group_type: DEEP feature_names: "user" feature_names: "age" }
...   dcn_v1 { cross {} deep { hidden_units: 3 } final { hidden_units: 2 } }
...   losses { binary_cross_entropy {} }
... }''')
>>> sorted(system.export_weights(system.init(key(0))))[:2]
['cross.b.0', 'cross.b.1']
"""

from funcrec.interop.easyrec.checkpoints import read_state_dict
from funcrec.interop.easyrec.parse import parse
from funcrec.interop.easyrec.placement import Plan
from funcrec.interop.easyrec.system import System, Variables

__all__ = ["Plan", "System", "Variables", "parse", "read_state_dict"]
