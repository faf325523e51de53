"""Families of transformers that detect or segment objects, as data; many of their attention modules cannot be cut.

What an entry is says :mod:`validation.tiny_models`. Their kinds of attention are looked at one at a time.
"""

from .found_architectures import PLAIN
from .found_vision import DISTANCES, ONE_SAMPLE, SCORES
from .tiny_models import TWO_PARTS, Architecture

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
_SIZES = TWO_PARTS | {"num_queries": 5}
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
    "x4_feat_dim": 6,
    "mask_feature_channels": [8, 8],
    "num_prototypes": 4,
    "global_pointer_head_size": 4,
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
    one_more = _LEVELS | {
        "backbone_config": _RESNET
        | {"hidden_sizes": [6, 6, 8], "depths": [1] * 3, "out_features": ["stage1", "stage2", "stage3"]},
        "feat_strides": [8, 16],
    }
    for name, model in (
        ("rt_detr", "RTDetrModel"),
        ("rt_detr_v2", "RTDetrV2Model"),
        ("d_fine", "DFineModel"),
        ("deimv2", "Deimv2Model"),
        ("pp_doclayout_v3", "PPDocLayoutV3Model"),
        ("pp_doclayout_v4", "PPDocLayoutV4Model"),
    ):
        yield Architecture(
            f"{name}-encoder",
            model,
            options=one_more if name == "pp_doclayout_v3" else _LEVELS,
            inputs={"pixel_values": (1, 3, 32, 32)},
            attention="encoder.aifi.0.layers.*.self_attn",
            expected=_DECODER,
            outside={} if name in ("d_fine", "deimv2") else dict.fromkeys(SCORES, ONE_SAMPLE),
        )
        yield Architecture(
            f"{name}-decoder",
            model,
            options=one_more if name == "pp_doclayout_v3" else _LEVELS,
            inputs={"pixel_values": (1, 3, 32, 32)},
            attention="decoder.layers.*.self_attn",
            expected=_ENCODER,
        )


def _plain_towers_under_a_detector():
    tower = PLAIN | {"num_hidden_layers": 2, "mlp_ratio": 1, "image_size": 32, "patch_size": 8, "out_indices": [2]}
    detector = {
        "projector_scale_factors": [1.0],
        "d_model": 24,
        "decoder_self_attention_heads": 3,
        "decoder_cross_attention_heads": 6,
        "num_queries": 5,
        "group_detr": 1,
        "decoder_layers": 2,
        "decoder_ffn_dim": 7,
        "num_feature_levels": 1,
        "num_hidden_layers": None,
    }
    for name, model, backbone in (
        ("lw_detr", "LwDetrModel", {"model_type": "lw_detr_vit", "pretrain_image_size": 32, "num_windows": 4}),
        ("rf_detr", "RfDetrModel", {"model_type": "rf_detr_dinov2", "num_windows": 2}),
    ):
        inside = "window_block_indices" if name == "lw_detr" else "window_block_indexes"
        for which, kind, windows, expected, outside in (
            ("vision", "backbone.backbone.encoder.layer.*.attention", [], PLAIN, {}),
            ("vision-windows", "backbone.backbone.encoder.layer.*.attention", [0], PLAIN, {}),
            ("decoder", "decoder.layers.*.self_attn", [], {"hidden_size": 24, "num_attention_heads": 3}, {}),
        ):
            yield Architecture(
                f"{name}-{which}",
                model,
                options=detector | {"backbone_config": tower | backbone | {inside: windows}},
                inputs={"pixel_values": (1, 3, 32, 32)},
                attention=kind,
                expected=expected,
                outside=outside,
                output="last_hidden_state",
            )


def _with_text():
    """The encoder of OmDet-Turbo over its picture; its decoder also reads the words of classes."""
    text = {"model_type": "clip_text_model", "hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 1}
    swin = {
        "model_type": "swin",
        "image_size": 32,
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 1, 1],
        "window_size": 2,
        "out_features": ["stage2", "stage3", "stage4"],
    }
    yield Architecture(
        "omdet_turbo",
        "OmDetTurboForObjectDetection",
        options={
            "text_config": text | {"intermediate_size": 7},
            "backbone_config": swin,
            "encoder_hidden_dim": 24,
            "decoder_hidden_dim": 24,
            "encoder_attention_heads": 6,
            "decoder_num_heads": 6,
            "encoder_layers": 2,
            "vision_features_channels": [24] * 3,
            "encoder_in_channels": [16, 32, 64],
            "num_hidden_layers": None,
        },
        part="encoder.encoder.0",
        inputs={"src": (1, 6, 24)},
        expected=PLAIN,
    )


_SWIN = {
    "model_type": "swin",
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 12,
    "depths": [1, 1, 1, 1],
    "num_heads": [2, 2, 4, 4],
    "window_size": 2,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_MASKS = {
    "backbone_config": _SWIN,
    "decoder_config": {"model_type": "detr", **_SIZES},
    "fpn_feature_size": 32,
    "mask_feature_size": 32,
    "feature_size": 32,
    "hidden_dim": 32,
    "num_attention_heads": 4,
    "num_queries": 5,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "num_hidden_layers": None,
}


def _masks():
    for which, kind in (("decoder", "self_attn"), ("cross", "encoder_attn")):
        # All its queries start as zeros, as in Table Transformer.
        yield Architecture(
            f"maskformer-{which}",
            "MaskFormerModel",
            options=_MASKS,
            part="transformer_module.decoder",
            attention=f"layers.*.{kind}",
            inputs={
                "inputs_embeds": (1, 5, 24),
                "object_queries_position_embeddings": (1, 5, 24),
                "encoder_hidden_states": (1, 4, 24),
                "spatial_position_embeddings": (1, 4, 24),
            },
            expected=_DECODER,
        )
    yield Architecture(
        "maskformer-swin",
        "MaskFormerModel",
        options=_MASKS,
        attention="pixel_level_module.encoder.model.encoder.layers.*.blocks.0.attention",
        inputs={"pixel_values": (1, 3, 32, 32)},
        layers=(0, 1, 2, 3),
        expected={"num_attention_heads": (2, 2, 4, 4), "hidden_size": (12, 24, 48, 96), "head_dim": (6, 12, 12, 24)},
        outside=DISTANCES,
    )
    joint = {"conv_dim": 32, "mask_dim": 32, "text_encoder_width": 128, "text_encoder_num_layers": 1, "task_seq_len": 6}
    yield Architecture(
        "oneformer",
        "OneFormerModel",
        options=_MASKS | joint,
        attention="transformer_module.decoder.layers.*.self_attn.self_attn",
        inputs={"pixel_values": (1, 3, 32, 32), "task_inputs": "ids"},
        expected={"num_attention_heads": 4, "hidden_size": 32},
        output="transformer_decoder_object_queries",
    )
    yield Architecture(
        "mask2former",
        "Mask2FormerModel",
        options=_MASKS,
        attention="transformer_module.decoder.layers.*.self_attn",
        inputs={"pixel_values": (1, 3, 32, 32)},
        expected={"num_attention_heads": 4, "hidden_size": 32},
        output="transformer_decoder_last_hidden_state",
    )


def families():
    """Entries of this area."""
    yield from _transformers_over_a_picture()
    yield from _deformable()
    yield from _plain_towers_under_a_detector()
    yield from _with_text()
    yield from _masks()


def refused():
    """Pairs of an architecture and words of the reason."""
    resnet = {"backbone_config": _RESNET}
    computed = "at positions that it computes"
    for name, model, options, reason in (
        ("conditional_detr-decoder", "ConditionalDetrModel", _SIZES | resnet, "of contents and of positions"),
        ("dab_detr-decoder", "DabDetrModel", _SIZES | resnet | {"hidden_size": 24}, "of contents and of positions"),
        (
            "detr-maps",
            "DetrForSegmentation",
            _SIZES | _WIDE | {"backbone_config": _FOUR_STAGES},
            "but no values",
        ),
        ("deformable_detr-encoder", "DeformableDetrModel", _LEVELS | _WIDE, computed),
        ("rt_detr-cross", "RTDetrModel", _LEVELS, computed),
        ("mask2former-pixels", "Mask2FormerModel", _MASKS, computed),
    ):
        yield Architecture(name, model, options=options), reason
    yield (
        Architecture("mask2former-masked", "Mask2FormerModel", options=_MASKS, part="transformer_module.decoder"),
        "holds its projections as one parameter",
    )
