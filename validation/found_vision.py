"""Families of vision transformers with stages, windows, shortened keys and prompts, as data.

What an entry is says :mod:`validation.tiny_models`. Layers in stages differ in their heads, so sizes are tuples.
"""

from .found_architectures import PLAIN
from .tiny_models import Architecture, models

_PICTURE = {"pixel_values": (1, 3, 16, 16)}
_SPLIT = "a sample has several rows (windows, frames, prompts) along the first axis, and collection refuses that"
_FEWER = "its keys have fewer positions than its queries"
_POSITIONS = "every head has its own bias by distance, which the permutation would have to move too"
_MEET_POSITIONS = "queries also meet positions, which still move them where the keys of the content are gone"
# Seen with torch 2.13 on CPU, in eval mode: numerical derivatives agree with a batch of two, not with one sample.
ONE_SAMPLE = "BatchNorm2d of torch differentiates one sample wrongly where its channels come last in memory"
SCORES = ("reference_gradients", "reference_scores", "head_additivity")
_COLLECTING = (*SCORES, "zeroed_weights", "relabelling")
_ROWS = dict.fromkeys(_COLLECTING, _SPLIT)
_IMAGE = {"image_size": 16, "patch_size": 4, "num_channels": 3}
_SMALL = {
    "hidden_size": 24,
    "num_attention_heads": 6,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 4,
    "pred_num_hidden_layers": 1,
    "width_multiplier": 0.25,
    "depths": [1, 1, 1, 1],
    "embed_dims": [8, 8, 8, 8],
}
_STAGES = {"num_attention_heads": (2, 2, 4), "hidden_size": (12, 12, 24), "head_dim": 6}
# The norm before shortened keys: checks take any norm inside of attention for one that heads share.
_NORM = ("layer_norm",)


def _windows():
    stages = {
        "image_size": 16,
        "patch_size": 2,
        "embed_dim": 12,
        "depths": (2, 1),
        "num_heads": (2, 4),
        "window_size": 4,
    }
    found = {"inputs": _PICTURE, "options": stages, "layers": (0, 1, 2), "expected": _STAGES, "outside": _ROWS}
    yield from models({}, "swin:SwinModel swinv2:Swinv2Model donut:DonutSwinModel", **found)
    yield from models(
        {},
        "swin2sr:Swin2SRModel",
        **found
        | {
            "options": stages | {"num_heads": (4, 4), "embed_dim": 24, "image_size": 8, "patch_size": 1},
            "expected": PLAIN | {"num_attention_heads": 4},
        },
    )


def _pyramids():
    stages = {
        "image_size": 16,
        "num_encoder_blocks": 2,
        "depths": (2, 1),
        "hidden_sizes": (12, 24),
        "num_attention_heads": (2, 4),
        "sr_ratios": (2, 1),
        "sequence_reduction_ratios": (2, 1),
        "patch_sizes": (3, 3),
        "strides": (2, 2),
        "mlp_ratios": (1, 1),
        "decoder_hidden_size": 8,
    }
    found = {"inputs": _PICTURE, "layers": (0, 1, 2), "expected": _STAGES, "outside": {"query_position": _FEWER}}
    found["coupling"] = _NORM
    yield from models({}, "segformer:SegformerModel glpn:GLPNModel pvt_v2:PvtV2Model", options=stages, **found)
    yield from models({}, "pvt:PvtModel", options=stages | {"patch_sizes": (4, 2), "strides": (4, 2)}, **found)


def _stages_of_other_kinds():
    sizes = {
        "embed_dim": (12, 24),
        "num_heads": (2, 4),
        "depth": (1, 2),
        "patch_sizes": (3, 3),
        "patch_stride": (2, 2),
        "patch_padding": (1, 1),
        "cls_token": (False, True),
        "mlp_ratio": (1.0, 1.0),
        "qkv_bias": (True, True),
        "kernel_qkv": (3, 3),
        "stride_kv": (2, 2),
        **{name: (1, 1) for name in ("padding_kv", "padding_q", "stride_q")},
        **{name: (0.0, 0.0) for name in ("attention_drop_rate", "drop_rate", "drop_path_rate")},
    }
    yield from models(
        {},
        "cvt:CvtModel",
        inputs=_PICTURE,
        options=sizes | {"qkv_projection_method": ("dw_bn", "dw_bn")},
        layers=(0, 1, 2),
        expected={"num_attention_heads": (2, 4, 4), "hidden_size": (12, 24, 24), "head_dim": 6},
        coupling=("normalization",),
        outside={"query_position": _FEWER} | dict.fromkeys(SCORES, ONE_SAMPLE),
    )
    yield from models(
        {},
        "hiera:HieraModel",
        packing="concatenated",
        inputs=_PICTURE,
        options={
            "embed_dim": 12,
            "image_size": (16, 16),
            "patch_size": (3, 3),
            "patch_stride": (2, 2),
            "patch_padding": (1, 1),
            "depths": (2, 1),
            "num_heads": (2, 4),
            # Queries that are the largest of several tokens' (a stride above 1) belong to no single token.
            "num_query_pool": 1,
            "query_stride": (1, 1),
            "masked_unit_size": (4, 4),
            "masked_unit_attention": (True, False),
        },
        layers=(0, 1, 2),
        expected=_STAGES | {"hidden_size": 12},
    )


def _towers():
    yield from models(
        PLAIN,
        "dpt:DPTModel",
        inputs=_PICTURE,
        options=_IMAGE | {"backbone_out_indices": [0, 1]},
    )
    yield from models(
        PLAIN,
        "vitdet:VitDetModel",
        packing="concatenated",
        inputs=_PICTURE,
        options=_IMAGE | {"pretrain_image_size": 16, "use_relative_position_embeddings": True},
        outside={"zeroed_weights": _MEET_POSITIONS},
    )
    yield from models(
        PLAIN,
        "vitdet-windows:VitDetModel",
        packing="concatenated",
        inputs=_PICTURE,
        options=_IMAGE | {"pretrain_image_size": 16, "window_size": 2, "window_block_indices": [0]},
        outside=_ROWS,
    )
    clips = {"packing": "concatenated", "inputs": {"pixel_values": (1, 3, 3, 8, 8)}}
    frames = _IMAGE | {"image_size": 8, "num_frames": 3}
    yield from models(
        PLAIN,
        "timesformer:TimesformerModel",
        options=frames | {"attention_type": "joint_space_time"},
        **clips,
    )
    for which, kind in (("space", "attention"), ("time", "temporal_attention")):
        yield from models(
            PLAIN,
            f"timesformer-{which}:TimesformerModel",
            options=frames,
            attention=f"encoder.layer.*.{kind}",
            outside=_ROWS,
            **clips,
        )
    yield from models(
        PLAIN,
        "mgp_str:MgpstrModel",
        packing="concatenated",
        inputs={"pixel_values": (1, 3, 8, 16)},
        options=_IMAGE | {"image_size": (8, 16)},
    )
    vjepa = {
        "crop_size": 16,
        "patch_size": 8,
        "frames_per_clip": 2,
        "tubelet_size": 1,
        "pred_hidden_size": 24,
        "pred_num_attention_heads": 4,
        "pred_num_hidden_layers": 2,
        "pred_num_mask_tokens": 2,
        "num_pooler_layers": 2,
    }
    for which, model, kind, expected in (
        ("vjepa2", "VJEPA2Model", "encoder.layer.*.attention", {}),
        (
            "vjepa2-predictor",
            "VJEPA2Model",
            "predictor.layer.*.attention",
            {"hidden_size": 24, "num_attention_heads": 4},
        ),
        ("vjepa2-pooler", "VJEPA2ForVideoClassification", "pooler.self_attention_layers.*.self_attn", {}),
    ):
        yield from models(
            {"hidden_size": 36, "num_attention_heads": 6},
            f"{which}:{model}",
            inputs={"pixel_values_videos": (1, 2, 3, 16, 16)},
            options=vjepa,
            attention=kind,
            expected=expected,
            output="predictor_output" if "predictor" in which else "",
        )


def _segment_anything():
    prompts = {"pixel_values": (1, 3, 16, 16), "input_points": (1, 1, 3, 2)}
    decoder = {"hidden_size": 24, "num_attention_heads": 6, "mlp_dim": 7, "iou_head_hidden_dim": 8}
    prompt = {"hidden_size": 24, "image_size": 16, "patch_size": 4, "mask_input_channels": 4}
    vision = _IMAGE | {"output_channels": 24, "num_pos_feats": 12, "window_size": 0, "mlp_dim": 7}
    windows = vision | {"window_size": 2, "global_attn_indexes": [1]}
    for implementation, mark in (("eager", ""), ("sdpa", "-sdpa")):
        yield from models(
            PLAIN,
            f"sam-vision{mark}:SamVisionModel",
            packing="concatenated",
            inputs=_PICTURE,
            options=vision,
            implementation=implementation,
            outside={"zeroed_weights": _MEET_POSITIONS},
        )
    yield from models(
        PLAIN,
        "sam-vision-windows:SamVisionModel",
        packing="concatenated",
        inputs=_PICTURE,
        options=windows,
        outside=_ROWS,
    )
    parts = {
        "vision_config": PLAIN | vision | {"num_hidden_layers": 1},
        "mask_decoder_config": decoder,
        "prompt_encoder_config": prompt,
    }
    within = {"hidden_size": 24, "num_attention_heads": 6, "head_dim": 2}
    for which, kind, layers, expected in (
        ("prompt", "layers.*.self_attn", (0, 1), PLAIN),
        ("prompt-image", "layers.*.cross_attn_token_to_image", (0, 1), within),
        ("image-prompt", "layers.*.cross_attn_image_to_token", (0, 1), within),
        ("prompt-final", "final_attn_token_to_image", (0,), within),
    ):
        yield from models(
            {},
            f"sam-{which}:SamModel",
            inputs=prompts,
            options=parts,
            attention=f"mask_decoder.transformer.{kind}",
            expected=expected,
            layers=layers,
        )


def families():
    """Entries of this area."""
    for group in (_windows, _pyramids, _stages_of_other_kinds, _towers, _segment_anything):
        yield from group()


def refused():
    """Pairs of an architecture and words of the reason."""
    for one, reason in (
        ("vjepa2-classifier:VJEPA2ForVideoClassification", "no output projection"),
        ("mobilevitv2:MobileViTV2Model", "no query meets a single key"),
        ("swiftformer:SwiftFormerModel", "no query meets a single key"),
    ):
        yield next(models({}, one, options=_SMALL)), reason
    stages = {"hidden_sizes": (8, 8, 8), "num_attention_heads": (2, 2, 2), "depths": (1, 1, 1), "key_dim": (4, 4, 4)}
    yield Architecture("levit", "LevitModel", options=stages | {"image_size": 64}), "no second backward pass"
