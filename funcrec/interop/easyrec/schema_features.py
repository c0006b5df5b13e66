"""The fields of feature configs; see :mod:`funcrec.interop.easyrec.schema` for the notation."""

from __future__ import annotations

# Of every kind of feature.
_ANY = (
    "feature_name string!, embedding_name string, embedding_dim uint32, pooling string=sum, init_fn string, "
    "use_mask bool, fg_encoded_default_value string, trainable bool=true, stub_type bool, data_type string=FP32, "
    "embedding_constraints ParameterConstraints, sequence_length uint32, sequence_delim string=';', "
    "sequence_fields string*, separator string='\x1d'"
)
_IDS = (
    "hash_bucket_size uint64, vocab_list string*, vocab_dict map, zch ZeroCollisionHash, vocab_file string, "
    "asset_dir string, dynamicemb DynamicEmbedding, default_bucketize_value uint64"
)
_NUMBERS = "boundaries float*, <dense_emb> autodis AutoDisEmbedding, <dense_emb> mlp MLPEmbedding"


def _kind(*parts: str) -> str:
    return ", ".join((_ANY, *parts))


FEATURES = {
    "IdFeature": _kind(
        "expression string",
        _IDS,
        "num_buckets uint64, value_dim uint32, default_value string, weighted bool, fg_value_type string",
    ),
    "RawFeature": _kind("expression string", _NUMBERS, "value_dim uint32=1, normalizer string, default_value string=0"),
    "ComboFeature": _kind("expression string*", _IDS, "value_dim uint32, default_value string"),
    "CombineFeature": _kind(
        "expression string",
        _NUMBERS,
        "value_map floats, num_buckets uint64, default_value string, normalizer string, combiner string=sum",
    ),
    "LookupFeature": _kind(
        "map string!, key string!",
        _IDS,
        _NUMBERS,
        "num_buckets uint64, combiner string=sum, default_value string=0, need_discrete bool, need_key bool, "
        "normalizer string, value_dim uint32, value_separator string=',', fg_value_type string",
    ),
    "MatchFeature": _kind(
        "nested_map string!, pkey string!, skey string!",
        _IDS,
        _NUMBERS,
        "num_buckets uint64, default_value string=0, need_discrete bool, show_pkey bool, show_skey bool, "
        "normalizer string, value_dim uint32, fg_value_type string",
    ),
    "ExprFeature": _kind(
        "expression string!, variables string*",
        _NUMBERS,
        "fill_missing float, default_value string=0, value_dim uint32",
    ),
    "OverlapFeature": _kind(
        "query string!, title string!, method string!", _NUMBERS, "normalizer string, value_dim uint32"
    ),
    "TokenizeFeature": _kind(
        "expression string, text_normalizer TextNormalizer, vocab_file string, asset_dir string, default_value string, "
        "tokenizer_type string=bpe"
    ),
    "KvDotProduct": _kind(
        "query string!, document string!, kv_delimiter string",
        _NUMBERS,
        "normalizer string, default_value string=0, value_dim uint32",
    ),
    "CustomFeature": _kind(
        "operator_name string!, operator_lib_file string!, operator_params Struct, is_op_thread_safe bool, "
        "expression string*",
        _IDS,
        _NUMBERS,
        "num_buckets uint64, normalizer string, default_value string=0, value_dim uint32, fg_value_type string",
    ),
    "BoolMaskFeature": _kind(
        "expression string*", _IDS, "num_buckets uint64, value_dim uint32, default_value string, fg_value_type string"
    ),
    "SequenceFeature": "sequence_name string!, sequence_length uint32, sequence_delim string=';', sequence_pk string, "
    "features SeqFeatureConfig*",
    "ParameterConstraints": "sharding_types string*, compute_kernels string*",
    "LFU_EvictionPolicy": "",
    "LRU_EvictionPolicy": "decay_exponent float=1.0",
    "DistanceLFU_EvictionPolicy": "decay_exponent float=1.0",
    "ZeroCollisionHash": "zch_size uint64!, eviction_interval uint32=5, threshold_filtering_func string, "
    "<eviction_policy> lfu LFU_EvictionPolicy, <eviction_policy> lru LRU_EvictionPolicy, "
    "<eviction_policy> distance_lfu DistanceLFU_EvictionPolicy",
    "AutoDisEmbedding": "num_channels uint32!, temperature float=0.1, keep_prob float=0.8",
    "MLPEmbedding": "",
    "DynamicEmbInitializerArgs": "mode string, mean float, std_dev float, lower float, upper float, value float",
    "DynamicEmbFrequencyAdmissionStrategy": "threshold uint64!, initializer_args DynamicEmbInitializerArgs, "
    "counter_capacity uint64, counter_bucket_capacity uint64=1024",
    "DynamicEmbedding": "initializer_args DynamicEmbInitializerArgs, eval_initializer_args DynamicEmbInitializerArgs, "
    "score_strategy string=STEP, max_capacity uint64!, cache_load_factor float, init_capacity_per_rank uint64, "
    "init_table string, <admission_strategy> frequency_admission_strategy DynamicEmbFrequencyAdmissionStrategy",
    "TextNormalizer": "max_length uint32, stop_char_file string, norm_options TextNormalizeOption*",
}

_KINDS = (
    ("id_feature", "IdFeature"),
    ("raw_feature", "RawFeature"),
    ("combo_feature", "ComboFeature"),
    ("lookup_feature", "LookupFeature"),
    ("match_feature", "MatchFeature"),
    ("expr_feature", "ExprFeature"),
    ("overlap_feature", "OverlapFeature"),
    ("tokenize_feature", "TokenizeFeature"),
    ("custom_feature", "CustomFeature"),
    ("kv_dot_product", "KvDotProduct"),
    ("bool_mask_feature", "BoolMaskFeature"),
    ("combine_feature", "CombineFeature"),
)
_PLAIN = ", ".join(f"<feature> {name} {kind}" for name, kind in _KINDS)
_SEQUENCE = ", ".join(f"<feature> sequence_{name} {kind}" for name, kind in _KINDS)
FEATURES["SeqFeatureConfig"] = _PLAIN
FEATURES["FeatureConfig"] = f"{_PLAIN}, <feature> sequence_feature SequenceFeature, {_SEQUENCE}"

FEATURE_ENUMS = {
    "TextNormalizeOption": "TEXT_LOWER2UPPER TEXT_UPPER2LOWER TEXT_SBC2DBC TEXT_CHT2CHS TEXT_FILTER TEXT_SPLITCHRS "
    "TEXT_REMOVE_SPACE",
}
