"""Families of transformers for text beyond those of :mod:`validation.found_architectures`, as data.

One entry is one kind of attention where a model has several; :mod:`validation.tiny_models` says what an entry is.
"""

import dataclasses

from .found_architectures import FREE, MOE, PLAIN
from .tiny_models import TWO_PARTS, VOCAB_SIZE, Architecture, causal_models, models

# What a law does not cover, in the words of validation/proven.py.
_SINKS = {
    "relabelling": "every head has a sink of its own beside its slices, which the permutation would have to move too"
}
_GATES = {
    "relabelling": "every head has a gate of its own beside its slices, which the permutation would have to move too"
}
POSITIONS = {"relabelling": "every head has its own bias by distance, which the permutation would have to move too"}
_BOXES = {
    "relabelling": "every head has queries and keys of boxes beside its slices, which the permutation would have to move too"
}
_BOX_KEYS = {
    "zeroed_weights": "queries also meet the distances of boxes, which act where the keys of the content are gone"
}
PAIRS = {"relabelling": "every head has a gate and its own bias by pair, which the permutation would have to move too"}

SIX, _FOUR = {"num_attention_heads": 6, "hidden_size": 24}, {"num_attention_heads": 4, "hidden_size": 24}


def families():
    """Entries of all families."""
    for group in (
        _language_models,
        _encoders,
        _cross_attention_of_encoders,
        _encoder_decoders,
    ):
        yield from group()


def _language_models():
    yield from causal_models(FREE, "beam:Beam", options=MOE, outside=_GATES)


def _encoders():
    yield from models(FREE, "ultrabert:UltrabertModel")
    yield from models(FREE, "openai_privacy_filter:OpenAIPrivacyFilterModel", options=MOE, outside=_SINKS)
    yield Architecture(
        "muse_glimmer_assistant",
        "MuseGlimmerAssistantModel",
        sizes=FREE,
        options={"target_layer_ids": [0, 1]},
        inputs={"noise_embeds": (1, 4, 30), "context_hidden_states": (1, 3, 60)},
    )
    yield Architecture(
        "cpmant",
        "CpmAntModel",
        sizes=PLAIN | {"head_dim": None},
        options={
            "dim_head": 5,
            "dim_ff": 7,
            "prompt_length": 2,
            "prompt_types": 3,
            "segment_types": 4,
            "max_distance": 8,
            "position_bias_num_buckets": 4,
        },
        expected={"head_dim": 5},
        outside=POSITIONS,
    )
    box = [[[0, 1, 2, 3]] * 6]
    yield Architecture(
        "bros",
        "BrosModel",
        sizes={"hidden_size": 64, "num_attention_heads": 4},  # below, a corner of a box has no width
        fixed={"bbox": [[[((7 * row + 3 * place) % 11) / 11 for place in range(8)] for row in range(6)]]},
        outside=_BOX_KEYS,
    )
    yield Architecture(
        "lilt", "LiltModel", sizes=PLAIN, options={"channel_shrink_ratio": 2}, fixed={"bbox": box}, outside=_BOXES
    )
    yield Architecture("yoso", "YosoModel", sizes=PLAIN)
    # The masks of CANINE and XGLM overflow in float64: what is looked at is called without one.
    hashes = {"num_hash_buckets": 8, "num_hash_functions": 2, "downsampling_rate": 2, "upsampling_kernel_size": 2}
    hidden = {"hidden_states": (1, 6, 24)}
    yield Architecture("canine", "CanineModel", sizes=PLAIN, options=hashes, part="encoder", inputs=hidden)
    yield Architecture(
        "xglm",
        "XGLMForCausalLM",
        options={"d_model": 24, "num_layers": 2, "attention_heads": 6, "ffn_dim": 7},
        inputs=hidden,
        layers=(0,),
        part="model.layers.0",
        expected=SIX,
    )
    states = {"states": (1, 3, 3), "actions": (1, 3, 2), "rewards": (1, 3, 1), "returns_to_go": (1, 3, 1)}
    yield Architecture(
        "decision_transformer",
        "DecisionTransformerModel",
        "concatenated",
        PLAIN,
        {"state_dim": 3, "act_dim": 2, "max_ep_len": 8, "n_inner": 7},
        inputs=states,
        fixed={"timesteps": [[0, 1, 2]], "attention_mask": [[1, 1, 1]]},
    )


def _cross_attention_of_encoders():
    options = {
        "is_decoder": True,
        "add_cross_attention": True,
        "embedding_size": 24,
        "input_embedding_size": 24,
        "output_embedding_size": 24,
        "default_language": "en_XX",
        "pronunciation_vocab_size": 5,
        "shape_vocab_size": 5,
        "concat_input": False,
    }
    yield from models(
        PLAIN,
        "bert-cross:BertModel bert_generation-cross:BertGenerationEncoder camembert-cross:CamembertModel "
        "electra-cross:ElectraModel ernie-cross:ErnieModel "
        "rembert-cross:RemBertModel roberta-cross:RobertaModel roberta_prelayernorm-cross:RobertaPreLayerNormModel "
        "roc_bert-cross:RoCBertModel roformer-cross:RoFormerModel xlm_roberta-cross:XLMRobertaModel "
        "xlm_roberta_xl-cross:XLMRobertaXLModel xmod-cross:XmodModel",
        options=options,
        inputs={"input_ids": "ids", "encoder_hidden_states": (1, 4, 24)},
        attention="encoder.layer.*.crossattention",
    )
    # These cut keys by the number of queries, so both sides must be of one length.
    yield from models(
        PLAIN,
        "esm-cross:EsmModel megatron_bert-cross:MegatronBertModel",
        options=options,
        inputs={"input_ids": "ids", "encoder_hidden_states": (1, 6, 24)},
        attention="encoder.layer.*.crossattention",
    )
    yield from models(
        PLAIN,
        "gpt2-cross:GPT2Model",
        packing="concatenated",
        options={"add_cross_attention": True},
        inputs={"input_ids": "ids", "encoder_hidden_states": (1, 4, 24)},
        attention="h.*.crossattention",
    )


def of_kinds(one, kinds):
    """One entry per kind of attention: ``{suffix: (kind, expected sizes, laws outside)}``."""
    for suffix, (kind, expected, outside) in kinds.items():
        yield dataclasses.replace(one, name=f"{one.name}-{suffix}", attention=kind, expected=expected, outside=outside)


def _encoder_decoders():
    bart = TWO_PARTS | {"decoder_start_token_id": 1, "intermediate_size": None}
    encoder = ("encoder.layers.*.self_attn", SIX, {})
    decoder, cross = ("decoder.layers.*.self_attn", _FOUR, {}), ("decoder.layers.*.encoder_attn", _FOUR, {})
    (one,) = models(
        {}, "bigbird_pegasus:BigBirdPegasusModel", options=bart | {"attention_type": "original_full"}, inputs="ids+ids"
    )
    yield from of_kinds(one, {"encoder": encoder, "decoder": decoder, "cross": cross})
    for pair, more in (
        ("led:LEDModel", {"attention_window": 4}),
        ("pegasus_x:PegasusXModel", {"block_size": 4, "num_global_tokens": 2}),
    ):
        (one,) = models({}, pair, options=bart | more, inputs="ids+ids")
        yield from of_kinds(one, {"decoder": decoder, "cross": cross})
    languages = {"langs": ["en", "de"], "src_vocab_size": VOCAB_SIZE, "tgt_vocab_size": VOCAB_SIZE}
    (one,) = models({}, "fsmt:FSMTModel", options=bart | languages, inputs="ids+ids")
    yield from of_kinds(one, {"encoder": encoder, "decoder": decoder, "cross": cross})
    prophet = {
        "num_encoder_attention_heads": 6,
        "num_decoder_attention_heads": 4,
        "num_encoder_layers": 2,
        "num_decoder_layers": 2,
        "encoder_ffn_dim": 7,
        "decoder_ffn_dim": 7,
        "ngram": 2,
        "num_buckets": 4,
        "decoder_start_token_id": 1,
        "num_hidden_layers": None,
    }
    (one,) = models({"hidden_size": 24}, "prophetnet:ProphetNetModel", options=prophet, inputs="ids+ids")
    yield from of_kinds(
        one,
        {
            "encoder": ("encoder.layers.*.self_attn", SIX, {}),
            "cross": ("decoder.layers.*.cross_attn", _FOUR, {}),
        },
    )
    t5 = {
        "d_model": 30,
        "num_heads": 6,
        "d_kv": 4,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "d_ff": 7,
        "decoder_start_token_id": 1,
        "encoder_attention_type": "local",
        "local_radius": 3,
    }
    wide = {"num_attention_heads": 6, "hidden_size": 30, "head_dim": 4}
    (one,) = models({}, "longt5:LongT5Model", options=t5, inputs="ids+ids")
    yield from of_kinds(
        one,
        {
            "encoder": ("encoder.block.*.layer.0.LocalSelfAttention", wide, POSITIONS),
            "decoder": ("decoder.block.*.layer.0.SelfAttention", wide, POSITIONS),
            "cross": ("decoder.block.*.layer.1.EncDecAttention", wide, {}),
        },
    )
    part = {"vocab_size": VOCAB_SIZE, "num_hidden_layers": 2, "intermediate_size": 7}
    # Encoder and decoder differ in all their sizes but the hidden size, which they share through the cross-attention.
    many = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 6, "hidden_size": 24}
    few = {"num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "hidden_size": 24}
    (one,) = models(
        {},
        "t5gemma:T5GemmaModel",
        options={"encoder": part | many, "decoder": part | few | {"cross_attention_hidden_size": 24}},
        inputs="ids+ids",
    )
    yield from of_kinds(
        one,
        {
            "encoder": ("encoder.layers.*.self_attn", many, {}),
            "decoder": ("decoder.layers.*.self_attn", few, {}),
            "cross": ("decoder.layers.*.cross_attn", few, {}),
        },
    )
