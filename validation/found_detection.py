"""Families of transformers that detect or segment objects, as data; many of their attention modules cannot be cut.

What an entry is says :mod:`validation.tiny_models`. Their kinds of attention are looked at one at a time.
"""

from .found_architectures import PLAIN
from .found_vision import ONE_SAMPLE, SCORES
from .tiny_models import Architecture

_RESNET = {
    "model_type": "resnet",
    "embedding_size": 6,
    "hidden_sizes": [6, 8],
    "depths": [1, 1],
    "layer_type": "basic",
    "out_features": ["stage2"],
}
_FOUR_STAGES = _RESNET | {
    "hidden_sizes": [6] * 4,
    "depths": [1] * 4,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_SIZES = {
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 7,
    "decoder_ffn_dim": 7,
    "num_queries": 5,
}
# The deformable attention warns where the width of its heads is no power of two: six heads in decoders.
_LEVELS = _SIZES | {
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 6,
    "backbone_config": _RESNET | {"out_features": ["stage1", "stage2"]},
    "num_hidden_layers": None,
    "num_feature_levels": 2,
    "encoder_hidden_dim": 24,
    "encoder_in_channels": [6, 8],
    "feat_strides": [4, 8],
    "encode_proj_layers": [1],
    "decoder_in_channels": [24, 24],
    "num_denoising": 0,
    "decoder_n_levels": 2,
}
_WIDE = {"d_model": 32, "encoder_attention_heads": 8, "decoder_attention_heads": 4}
_ENCODER, _DECODER = PLAIN, {"hidden_size": 24, "num_attention_heads": 4}
_PICTURE = {"pixel_values": (1, 3, 24, 24)}


def _kinds(one, kinds):
    """One entry per kind: the name goes on with ``which``, and states its heads."""
    for which, kind, expected in kinds:
        yield {"name": f"{one}-{which}", "attention": kind, "expected": expected}


def _transformers_over_a_picture():
    options = _SIZES | {"backbone_config": _RESNET}
    inputs = _PICTURE | {"decoder_inputs_embeds": (1, 5, 24)}
    kinds = (
        ("encoder", "encoder.layers.*.self_attn", _ENCODER),
        ("decoder", "decoder.layers.*.self_attn", _DECODER),
        ("cross", "decoder.layers.*.encoder_attn", _DECODER),
    )
    for entry in _kinds("detr", kinds):
        yield Architecture(model_class="DetrModel", options=options, inputs=inputs, **entry)
    for entry in _kinds("table_transformer", (kinds[0], kinds[2])):
        yield Architecture(model_class="TableTransformerModel", options=options, inputs=_PICTURE, **entry)
    # All its queries start as zeros: the first layer's values are all the same, and no query or key matters there.
    yield Architecture(
        "table_transformer-decoder",
        "TableTransformerModel",
        options=options,
        part="decoder",
        attention="layers.*.self_attn",
        inputs={
            "inputs_embeds": (1, 5, 24),
            "query_position_embeddings": (1, 5, 24),
            "encoder_hidden_states": (1, 4, 24),
            "object_queries": (1, 4, 24),
        },
        expected=_DECODER,
    )
    yield Architecture(
        "conditional_detr",
        "ConditionalDetrModel",
        options=options,
        inputs=_PICTURE,
        attention="encoder.layers.*.self_attn",
        expected=_ENCODER,
    )
    yield Architecture(
        "dab_detr",
        "DabDetrModel",
        options=options | {"hidden_size": 24},
        part="encoder",
        inputs={"inputs_embeds": (1, 4, 24), "object_queries": (1, 4, 24)},
        fixed={"attention_mask": [[[[0.0] * 4] * 4]]},
        expected=_ENCODER,
    )


def _deformable():
    yield Architecture(
        "deformable_detr",
        "DeformableDetrModel",
        options=_LEVELS | _WIDE,
        inputs=_PICTURE,
        attention="decoder.layers.*.self_attn",
        expected={"hidden_size": 32, "num_attention_heads": 4},
        output="last_hidden_state",
    )
    for name, model in (
        ("rt_detr", "RTDetrModel"),
        ("rt_detr_v2", "RTDetrV2Model"),
        ("d_fine", "DFineModel"),
        ("deimv2", "Deimv2Model"),
    ):
        yield Architecture(
            f"{name}-encoder",
            model,
            options=_LEVELS,
            inputs=_PICTURE,
            attention="encoder.aifi.0.layers.*.self_attn",
            expected=_DECODER,
            outside=dict.fromkeys(SCORES, ONE_SAMPLE),
        )
        yield Architecture(
            f"{name}-decoder",
            model,
            options=_LEVELS,
            inputs=_PICTURE,
            attention="decoder.layers.*.self_attn",
            expected=_ENCODER,
        )


def families():
    """Entries of this area."""
    yield from _transformers_over_a_picture()
    yield from _deformable()


def refused():
    """Pairs of an architecture and words of the reason."""
    resnet = {"backbone_config": _RESNET}
    computed = "at positions that it computes"
    for name, model, options, reason in (
        ("conditional_detr", "ConditionalDetrModel", _SIZES | resnet, "of contents and of positions"),
        ("dab_detr", "DabDetrModel", _SIZES | resnet | {"hidden_size": 24}, "of contents and of positions"),
        (
            "detr-maps",
            "DetrForSegmentation",
            _SIZES | _WIDE | {"backbone_config": _FOUR_STAGES},
            "but no values",
        ),
        ("deformable_detr", "DeformableDetrModel", _LEVELS | _WIDE, computed),
        ("rt_detr", "RTDetrModel", _LEVELS, computed),
    ):
        yield Architecture(name, model, options=options), reason
