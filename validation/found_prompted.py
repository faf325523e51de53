"""Families of transformers that segment what a prompt points at, as data: SAM and its successors.

What an entry is says :mod:`validation.tiny_models`. Points ask the picture and the picture asks the points, so their
decoders have four kinds of attention.
"""

from .found_architectures import PLAIN
from .found_vision import IMAGE, MEET_POSITIONS
from .tiny_models import Architecture, models

_PICTURE = {"pixel_values": (1, 3, 16, 16)}


def _segment_anything():
    prompts = {"pixel_values": (1, 3, 16, 16), "input_points": (1, 1, 3, 2)}
    decoder = {"hidden_size": 24, "num_attention_heads": 6, "mlp_dim": 7, "iou_head_hidden_dim": 8, "vit_dim": 24}
    prompt = {"hidden_size": 24, "image_size": 16, "patch_size": 4, "mask_input_channels": 4}
    vision = IMAGE | {"output_channels": 24, "num_pos_feats": 12, "window_size": 0, "mlp_dim": 7}
    windows = vision | {"window_size": 2, "global_attn_indexes": [1]}
    for implementation, mark in (("eager", ""), ("sdpa", "-sdpa")):
        yield from models(
            PLAIN,
            f"sam-vision{mark}:SamVisionModel sam_hq-vision{mark}:SamHQVisionModel",
            packing="concatenated",
            inputs=_PICTURE,
            options=vision,
            implementation=implementation,
            outside={"zeroed_weights": MEET_POSITIONS},
        )
    yield from models(
        PLAIN,
        "sam-vision-windows:SamVisionModel",
        packing="concatenated",
        inputs=_PICTURE,
        options=windows,
        outside={"zeroed_weights": MEET_POSITIONS},
    )
    parts = {
        "vision_config": PLAIN | vision | {"num_hidden_layers": 1},
        "mask_decoder_config": decoder,
        "prompt_encoder_config": prompt,
    }
    within = {"hidden_size": 24, "num_attention_heads": 6, "head_dim": 2}
    for name, model in (("sam", "SamModel"), ("sam_hq", "SamHQModel")):
        for which, kind, layers, expected in (
            ("prompt", "layers.*.self_attn", (0, 1), PLAIN),
            ("prompt-image", "layers.*.cross_attn_token_to_image", (0, 1), within),
            ("image-prompt", "layers.*.cross_attn_image_to_token", (0, 1), within),
            ("prompt-final", "final_attn_token_to_image", (0,), within),
        ):
            yield from models(
                {},
                f"{name}-{which}:{model}",
                inputs=prompts,
                options=parts,
                attention=f"mask_decoder.transformer.{kind}",
                expected=expected,
                layers=layers,
            )


def _segment_anything_in_stages():
    stages = {
        "hidden_size": 12,
        "image_size": [16, 16],
        "patch_kernel_size": [3, 3],
        "patch_stride": [2, 2],
        "patch_padding": [1, 1],
        # Queries that are the largest of several tokens' (a stride above 1) belong to no single token.
        "query_stride": [1, 1],
        "window_positional_embedding_background_size": [4, 4],
        "num_query_pool_stages": 1,
        "blocks_per_stage": [2, 1],
        "embed_dim_per_stage": [12, 24],
        "num_attention_heads_per_stage": [2, 4],
        "window_size_per_stage": [4, 4],
        "num_hidden_layers": None,
    }
    one_stage = {
        "blocks_per_stage": [2],
        "embed_dim_per_stage": [12],
        "num_attention_heads_per_stage": [2],
        "window_size_per_stage": [4],
        "global_attention_blocks": [0, 1],
    }
    stages_in_windows = {"hidden_size": 12, "num_attention_heads": (2, 2, 4), "head_dim": 6}
    for which, options, layers, expected, outside in (
        ("sam2-vision", one_stage, (0, 1), {"hidden_size": 12, "num_attention_heads": 2}, {}),
        ("sam2-vision-windows", {"global_attention_blocks": [1]}, (0, 1, 2), stages_in_windows, {}),
    ):
        yield Architecture(
            which,
            "Sam2HieraDetModel",
            "concatenated",
            options=stages | options,
            inputs=_PICTURE,
            layers=layers,
            expected=expected,
            outside=outside,
        )


_DECODER = {"hidden_size": 24, "num_attention_heads": 6, "mlp_dim": 7, "iou_head_hidden_dim": 8}
_PROMPT = {"hidden_size": 24, "image_size": 16, "patch_size": 4, "mask_input_channels": 4}
_HIERA = {
    "model_type": "sam2_vision_model",
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 12,
        "image_size": [16, 16],
        "window_positional_embedding_background_size": [4, 4],
        "blocks_per_stage": [1] * 4,
        "embed_dim_per_stage": [12] * 4,
        "num_attention_heads_per_stage": [2] * 4,
        "window_size_per_stage": [4] * 4,
        "global_attention_blocks": [],
    },
    "backbone_channel_list": [12] * 4,
    "backbone_feature_sizes": [[4, 4], [2, 2], [1, 1]],
    "fpn_hidden_size": 24,
}
_SAM3 = {
    "model_type": "sam3_vision_model",
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": 12,
        "intermediate_size": 7,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "window_size": 2,
        "pretrain_image_size": 28,
    },
    "fpn_hidden_size": 24,
    "backbone_feature_sizes": [[8, 8], [4, 4], [2, 2]],
}
_RESNET = {
    "model_type": "edgetam_vision_model",
    "backbone_config": {
        "model_type": "resnet",
        "embedding_size": 6,
        "hidden_sizes": [6, 6, 6, 8],
        "depths": [1] * 4,
        "layer_type": "basic",
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "backbone_channel_list": [8, 6, 6, 6],
    "backbone_feature_sizes": [[4, 4], [2, 2], [1, 1]],
    "fpn_hidden_size": 24,
}
_MEMORY = {
    "image_size": 16,
    "memory_attention_hidden_size": 24,
    "memory_attention_num_layers": 1,
    "memory_attention_num_attention_heads": 6,
    "memory_attention_feed_forward_hidden_size": 7,
    "memory_attention_mlp_hidden_size": 7,
    "memory_attention_rope_feat_sizes": [2, 2],
    "memory_encoder_hidden_size": 24,
    "memory_encoder_output_channels": 24,
    "mask_downsampler_embed_dim": 24,
    "memory_fuser_embed_dim": 24,
    "memory_fuser_intermediate_dim": 8,
    "perceiver_resampler_hidden_size": 24,
    "perceiver_resampler_mlp_intermediate_size": 7,
    "perceiver_resampler_num_attention_heads": 3,
    "perceiver_resampler_attention_head_dim": 4,
    "perceiver_resampler_num_latents": 4,
    "perceiver_resampler_num_latents_2d": 4,
}


def _decoders_alone():
    options = {"mask_decoder_config": _DECODER, "prompt_encoder_config": _PROMPT, "num_hidden_layers": None}
    inputs = {
        "point_embeddings": (1, 1, 3, 24),
        "image_embeddings": (1, 24, 2, 2),
        "image_positional_embeddings": (1, 24, 2, 2),
    }
    within = PLAIN | {"head_dim": 2}
    for name, model, vision in (
        ("sam2", "Sam2Model", _HIERA),
        ("sam2_video", "Sam2VideoModel", _HIERA),
        ("sam3_tracker", "Sam3TrackerModel", _SAM3),
        ("sam3_tracker_video", "Sam3TrackerVideoModel", _SAM3),
        ("edgetam", "EdgeTamModel", _RESNET),
        ("edgetam_video", "EdgeTamVideoModel", _HIERA),
    ):
        for which, kind, expected in (
            ("prompt", "layers.*.self_attn", PLAIN),
            ("prompt-image", "layers.*.cross_attn_token_to_image", within),
            ("image-prompt", "layers.*.cross_attn_image_to_token", within),
        ):
            yield Architecture(
                f"{name}-{which}",
                model,
                options=options | {"vision_config": vision} | (_MEMORY if "video" in name else {}),
                part="mask_decoder.transformer",
                inputs=inputs,
                fixed={"attention_similarity": [[[[0.0] * 4]]]},
                attention=kind,
                expected=expected,
            )


def families():
    """Entries of this area."""
    for group in (_segment_anything, _segment_anything_in_stages, _decoders_alone):
        yield from group()


def refused():
    """Pairs of an architecture and words of the reason."""
    options = {"mask_decoder_config": _DECODER, "prompt_encoder_config": _PROMPT, "vision_config": _HIERA}
    yield (
        Architecture(
            "edgetam_video-latents",
            "EdgeTamVideoModel",
            options=options | _MEMORY | {"num_hidden_layers": None},
        ),
        "several times",
    )
