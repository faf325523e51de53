"""Families of speech and time series with an encoder and a decoder, as data: one kind of attention at a time."""

import dataclasses

import numpy as np

from .found_architectures import FREE, PLAIN
from .tiny_models import TWO_PARTS, VOCAB_SIZE, Architecture, models

TOWERS = TWO_PARTS | {"decoder_start_token_id": 1}
_DECODER = {"decoder": ("decoder.layers.*.self_attn", 4), "cross": ("decoder.layers.*.encoder_attn", 4)}
_KINDS = {"encoder": ("encoder.layers.*.self_attn", 6)} | _DECODER
# Wider than its heads, with as many kv heads: in some models the library does not repeat keys and values.
WIDE = {"hidden_size": 30, "num_attention_heads": 6, "head_dim": 4}
_MEL_AND_IDS = {"input_features": (1, 12, 8), "decoder_input_ids": "ids"}
_PART = {"num_hidden_layers": 2, "intermediate_size": 7, "vocab_size": VOCAB_SIZE}
# Added to the queries beside their projection, also where there is no query.
POSITION_BIASES = ("pos_bias_u", "pos_bias_v", "bias_u", "bias_v")
POSITION_KEYS = dict.fromkeys(
    ("relabelling", "zeroed_weights"),
    "keys of positions have a projection of their own, which acts where the keys of the content are gone",
)
DISTANCES = {"zeroed_weights": "queries also meet embeddings of distances, which act where the keys are gone"}
BY_DISTANCE = {"relabelling": "every head has its own bias by distance, which the permutation would have to move too"}


def families():
    """Yield the families whose heads are found."""
    yield from _speech()
    yield from _speech_with_nested_configurations()
    yield from _seamless()
    yield from _time_series()


def one_kind_at_a_time(one, kinds):
    """Entries of a model with several kinds of attention, ``{end of the name: (kind, heads)}``."""
    for which, (kind, heads) in kinds.items():
        expected = {"num_attention_heads": heads, "hidden_size": 24} | one.expected
        yield dataclasses.replace(one, name=f"{one.name}-{which}", attention=kind, expected=expected)


def _speech():
    speech_to_text = Architecture(
        "speech_to_text",
        "Speech2TextModel",
        options=TOWERS
        | {
            "input_feat_per_channel": 8,
            "conv_channels": 8,
            "conv_kernel_sizes": (3, 3),
            "max_source_positions": 32,
            "max_target_positions": 32,
        },
        inputs={"input_features": (1, 24, 8), "decoder_input_ids": "ids"},
    )
    yield from one_kind_at_a_time(speech_to_text, _KINDS)
    speecht5 = Architecture(
        "speecht5",
        "SpeechT5Model",
        options=TOWERS | {"hidden_size": 24, "encoder_max_relative_position": 4},
        inputs={"input_values": (1, 6, 24), "decoder_input_values": (1, 5, 24)},
    )
    encoder = {"encoder": ("encoder.wrapped_encoder.layers.*.attention", 6)}
    decoder = {which: (f"decoder.wrapped_{kind}", heads) for which, (kind, heads) in _DECODER.items()}
    yield from one_kind_at_a_time(dataclasses.replace(speecht5, outside=DISTANCES), encoder)
    yield from one_kind_at_a_time(speecht5, decoder)
    pop2piano = Architecture(
        "pop2piano",
        "Pop2PianoForConditionalGeneration",
        options={
            "d_model": 30,
            "num_heads": 6,
            "d_kv": 4,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "d_ff": 7,
            "decoder_start_token_id": 1,
            "composer_vocab_size": 3,
        },
        inputs={"input_features": (1, 5, 30), "decoder_input_ids": "ids"},
        expected=WIDE,
    )
    yield from one_kind_at_a_time(pop2piano, {"cross": ("decoder.block.*.layer.1.EncDecAttention", 6)})
    yield from one_kind_at_a_time(
        dataclasses.replace(pop2piano, outside=BY_DISTANCE),
        {
            "encoder": ("encoder.block.*.layer.0.SelfAttention", 6),
            "decoder": ("decoder.block.*.layer.0.SelfAttention", 6),
        },
    )
    moonshine = Architecture(
        "moonshine",
        "MoonshineModel",
        options={
            "hidden_size": 24,
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 2,
            "encoder_num_attention_heads": 6,
            "decoder_num_attention_heads": 6,
            "decoder_start_token_id": 1,
        },
        inputs={"input_values": (1, 2047), "decoder_input_ids": "ids"},
    )
    # Its decoder always has as many heads as its encoder, which overwrites the number in the configuration.
    yield from one_kind_at_a_time(moonshine, {which: (kind, 6) for which, (kind, _) in _KINDS.items()})


def _speech_with_nested_configurations():
    conformer = _PART | {
        "model_type": "parakeet_encoder",
        "hidden_size": 24,
        "num_attention_heads": 6,
        "num_mel_bins": 8,
        "conv_kernel_size": 3,
        "subsampling_factor": 2,
        "subsampling_conv_channels": 4,
    }
    small = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 32}
    decoder = _PART | small | {"hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 3}
    shared = {"encoder_config": conformer, "decoder_start_token_id": 1}
    for name, model_class, options in (
        ("canary", "CanaryModel", shared | {"decoder_config": decoder}),
        ("cohere_asr", "CohereAsrModel", shared | decoder),
    ):
        one = Architecture(
            name,
            model_class,
            options=options,
            inputs=_MEL_AND_IDS,
            expected={"num_key_value_heads": 2, "head_dim": 3},
        )
        yield from one_kind_at_a_time(one, _DECODER)
    crossing = {
        "cross_num_attention_heads": 4,
        "cross_num_key_value_heads": 2,
        "cross_head_dim": 5,
        "cross_hidden_size": 30,
        "num_channels": 2,
    }
    dia = Architecture(
        "dia",
        "DiaModel",
        options={
            "encoder_config": _PART | FREE,
            "decoder_config": _PART | small | FREE | crossing,
            "delay_pattern": [0, 1],
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
        },
    )
    yield dataclasses.replace(dia, name="dia-encoder", part="encoder", expected=FREE)
    decoder = dataclasses.replace(
        dia,
        part="decoder",
        inputs={"encoder_hidden_states": (1, 5, 30)},
        fixed={"input_ids": [[[3, 4], [5, 6], [7, 3], [9, 4]]]},
    )
    for which, kind, heads, width in (
        ("decoder", "layers.*.self_attention", 6, 4),
        ("cross", "layers.*.cross_attention", 4, 5),
    ):
        one = dataclasses.replace(decoder, expected=FREE | {"num_attention_heads": heads, "head_dim": width})
        yield from one_kind_at_a_time(one, {which: (kind, heads)})
    streaming = Architecture(
        "moonshine_streaming",
        "MoonshineStreamingModel",
        options={
            "encoder_config": _PART | FREE | {"sliding_windows": [[4, 2], [4, 2]], "sample_rate": 1000},
            "hidden_size": 24,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "decoder_start_token_id": 1,
        },
        inputs={"input_values": (1, 120), "decoder_input_ids": "ids"},
    )
    yield from one_kind_at_a_time(streaming, _DECODER)
    encoder = dataclasses.replace(streaming, expected=FREE)
    yield from one_kind_at_a_time(encoder, {"encoder": _KINDS["encoder"]})


def _seamless():
    options = TOWERS | {
        "hidden_size": 24,
        "speech_encoder_layers": 2,
        "speech_encoder_attention_heads": 6,
        "speech_encoder_intermediate_size": 7,
        "feature_projection_input_dim": 8,
        "conv_depthwise_kernel_size": 3,
        "adaptor_kernel_size": 3,
        "adaptor_stride": 2,
        "num_adapter_layers": 2,
        "max_source_positions": 32,
    }
    for name, prefix, outside in (
        ("seamless_m4t", "SeamlessM4T", POSITION_KEYS),
        ("seamless_m4t_v2", "SeamlessM4Tv2", DISTANCES),
    ):
        text = Architecture(name, f"{prefix}ForTextToText", options=options, inputs="ids+ids")
        yield from one_kind_at_a_time(
            text,
            {
                "encoder": ("text_encoder.layers.*.self_attn", 6),
                "decoder": ("text_decoder.layers.*.self_attn", 4),
                "cross": ("text_decoder.layers.*.cross_attention", 4),
            },
        )
        speech = Architecture(
            name,
            f"{prefix}ForSpeechToText",
            options=options,
            inputs=_MEL_AND_IDS,
            coupling=POSITION_BIASES,
        )
        yield from one_kind_at_a_time(
            dataclasses.replace(speech, outside=outside), {"speech": ("speech_encoder.encoder.layers.*.self_attn", 6)}
        )
        yield from one_kind_at_a_time(speech, {"adapter": ("speech_encoder.adapter.layers.*.self_attn", 6)})


def _time_series():
    options = TOWERS | {
        "prediction_length": 4,
        "context_length": 6,
        "lags_sequence": [1],
        "num_time_features": 2,
        "attention_type": "full",
    }
    for one in models(
        {},
        "time_series_transformer:TimeSeriesTransformerModel informer:InformerModel",
        options=options,
        inputs={
            "past_values": (1, 7),
            "past_time_features": (1, 7, 2),
            "future_values": (1, 4),
            "future_time_features": (1, 4, 2),
        },
        fixed={"past_observed_mask": [[1.0] * 7]},
    ):
        yield from one_kind_at_a_time(one, _KINDS)
    patches = {"d_model": 24, "context_length": 24, "patch_length": 4, "patch_stride": 4}
    series = {"past_values": (1, 24, 1)}
    yield Architecture("patchtst", "PatchTSTModel", sizes=PLAIN, options=patches | {"ffn_dim": 7}, inputs=series)
    yield Architecture(
        "patchtsmixer",
        "PatchTSMixerModel",
        options=patches | {"num_layers": 2, "self_attn": True, "self_attn_heads": 6},
        inputs=series,
        expected=PLAIN,
    )
    yield Architecture(
        "timesfm",
        "TimesFmModel",
        sizes=WIDE,
        options={"patch_length": 4, "context_length": 24},
        inputs={"past_values": (1, 24)},
        # float64 as the model: the library multiplies its mask by the smallest number of the model's type.
        fixed={"past_values_padding": np.zeros((1, 24)), "freq": [[0]]},
    )
    yield Architecture(
        "timesfm2_5",
        "TimesFm2_5Model",
        sizes=FREE,
        options={"patch_length": 4, "context_length": 24},
        inputs={"past_values": (1, 24)},
    )
