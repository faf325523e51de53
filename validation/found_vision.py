"""Families of vision transformers with stages, windows, shortened keys and prompts, as data.

What an entry is says :mod:`validation.tiny_models`. Layers in stages differ in their heads, so sizes are tuples.
"""

from .found_architectures import PLAIN
from .tiny_models import models

_PICTURE = {"pixel_values": (1, 3, 16, 16)}
_POSITIONS = "every head has its own bias by distance, which the permutation would have to move too"
DISTANCES = {"relabelling": _POSITIONS}
MEET_POSITIONS = "queries also meet positions, which still move them where the keys of the content are gone"
# Seen with torch 2.13 on CPU, in eval mode: numerical derivatives agree with a batch of two, not with one sample.
ONE_SAMPLE = "BatchNorm2d of torch differentiates one sample wrongly where its channels come last in memory"
SCORES = ("reference_gradients", "reference_scores", "head_additivity")
IMAGE = {"image_size": 16, "patch_size": 4, "num_channels": 3}
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
    found = {"inputs": _PICTURE, "options": stages, "layers": (0, 1, 2), "expected": _STAGES, "outside": DISTANCES}
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
    found = {"inputs": _PICTURE, "layers": (0, 1, 2), "expected": _STAGES}
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
        outside=dict.fromkeys(SCORES, ONE_SAMPLE),
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


def _shrinking():
    """LeViT: the attention within its stages, and the one between them, which asks with fewer tokens."""
    stages = {
        "image_size": 128,
        "hidden_sizes": (16, 24, 32),
        "num_attention_heads": (2, 3, 4),
        "depths": (1, 1, 1),
        "key_dim": (4, 4, 4),
        "mlp_ratio": (1, 1, 1),
        "attention_ratio": (2, 2, 2),
    }
    for which, kind, layers, expected in (
        (
            "levit",
            "encoder.stages.*.layers.0.module",
            (0, 1, 2),
            {"num_attention_heads": (2, 3, 4), "hidden_size": (16, 24, 32), "v_head_dim": 8},
        ),
        (
            "levit-between",
            "encoder.stages.*.layers.2",
            (0, 1),
            {"num_attention_heads": (4, 6), "hidden_size": (16, 24), "v_head_dim": 16},
        ),
    ):
        yield from models(
            {},
            f"{which}:LevitModel",
            packing="interleaved",
            inputs={"pixel_values": (1, 3, 128, 128)},
            options=stages,
            attention=kind,
            layers=layers,
            expected=expected | {"head_dim": 4},
            coupling=("batch_norm",),
            outside=DISTANCES,
        )


def _towers():
    yield from models(
        PLAIN,
        "dpt:DPTModel",
        inputs=_PICTURE,
        options=IMAGE | {"backbone_out_indices": [0, 1]},
    )
    yield from models(
        PLAIN,
        "vitdet:VitDetModel",
        packing="concatenated",
        inputs=_PICTURE,
        options=IMAGE | {"pretrain_image_size": 16, "use_relative_position_embeddings": True},
        outside={"zeroed_weights": MEET_POSITIONS},
    )
    yield from models(
        PLAIN,
        "vitdet-windows:VitDetModel",
        packing="concatenated",
        inputs=_PICTURE,
        options=IMAGE | {"pretrain_image_size": 16, "window_size": 2, "window_block_indices": [0]},
    )
    clips = {"packing": "concatenated", "inputs": {"pixel_values": (1, 3, 3, 8, 8)}}
    frames = IMAGE | {"image_size": 8, "num_frames": 3}
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
            **clips,
        )
    yield from models(
        PLAIN,
        "mgp_str:MgpstrModel",
        packing="concatenated",
        inputs={"pixel_values": (1, 3, 8, 16)},
        options=IMAGE | {"image_size": (8, 16)},
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


def _more_towers():
    tower = IMAGE | {"use_mask_token": False, "num_register_tokens": 2, "n_cls_tokens": 2}
    yield from models(PLAIN, "pixio:PixioModel", inputs=_PICTURE, options=tower)
    yield from models(
        PLAIN,
        "radio:RadioModel",
        inputs=_PICTURE,
        options=IMAGE | {"max_img_size": 16, "num_cls_tokens": 1, "num_registers": 1, "summary_idxs": [0]},
    )
    yield from models(
        PLAIN,
        "sapiens2:Sapiens2Model",
        inputs=_PICTURE,
        options=tower | {"num_key_value_heads_per_layer": [2, 3], "num_first_full_attention_layers": 0},
        expected={"num_key_value_heads": (2, 3)},
    )
    for pair in ("eomt:EomtForUniversalSegmentation", "eomt_dinov3:EomtDinov3ForUniversalSegmentation"):
        yield from models(
            PLAIN, pair, inputs=_PICTURE, options=tower | {"num_blocks": 1, "num_queries": 3, "num_upscale_blocks": 1}
        )
    # One frame: the layers that read queries run once per frame.
    yield from models(
        PLAIN,
        "videomt:VideomtForUniversalSegmentation",
        inputs={"pixel_values_videos": (1, 1, 3, 16, 16)},
        options=tower | {"num_blocks": 1, "num_queries": 3, "num_upscale_blocks": 1},
    )
    yield from models(
        PLAIN,
        "vitpose_backbone:VitPoseBackbone",
        inputs={"hidden_states": (1, 6, 24)},
        options=IMAGE | {"image_size": (16, 16), "patch_size": (4, 4)},
        part="encoder",
    )
    yield from models(
        PLAIN,
        "seggpt:SegGptModel",
        packing="concatenated",
        inputs={"pixel_values": (1, 3, 16, 16), "prompt_pixel_values": (1, 3, 16, 16), "prompt_masks": (1, 3, 16, 16)},
        options=IMAGE
        | {
            "image_size": (32, 16),
            "pretrain_image_size": 16,
            "mlp_dim": 7,
            "decoder_hidden_size": 8,
            "merge_index": 0,
            "intermediate_hidden_state_indices": [0, 1],
        },
        outside={"zeroed_weights": MEET_POSITIONS},
    )


def _parts_of_larger_models():
    yield from models(
        {},
        "mobilevit:MobileViTModel",
        inputs={"pixel_values": (1, 3, 128, 128)},
        options={
            "hidden_sizes": (12, 12, 24),
            "neck_hidden_sizes": (4, 4, 4, 4, 4, 4, 8),
            "num_attention_heads": 3,
            "image_size": 128,
        },
        layers=tuple(range(9)),
        attention="encoder.layer.*.transformer.layer.*.attention",
        expected={
            "num_attention_heads": 3,
            "hidden_size": (*[12] * 6, *[24] * 3),
            "head_dim": (*[4] * 6, *[8] * 3),
        },
    )
    yield from models(
        PLAIN,
        "superglue:SuperGlueForKeypointMatching",
        inputs={"descriptors": (1, 6, 24)},
        options={"keypoint_encoder_sizes": [4, 24], "gnn_layers_types": ["self", "self"]},
        part="gnn",
    )
    # One self-attention runs over both pictures of a pair at once, one cross-attention runs twice.
    yield from models(
        {},
        "efficientloftr:EfficientLoFTRModel",
        inputs={"hidden_states": (1, 2, 24, 4, 4)},
        options={
            "stage_num_blocks": [1] * 4,
            "out_features": [4, 4, 8, 24],
            "stage_stride": [2, 1, 2, 2],
            "hidden_size": 24,
            "num_attention_layers": 2,
            "num_attention_heads": 6,
            **{f"{which}_aggregation_{what}": 2 for which in ("q", "kv") for what in ("kernel_size", "stride")},
        },
        part="local_feature_transformer",
        attention="layers.*.self_attention.attention",
        expected=PLAIN,
    )
    bins = {"n_bins": 4, "min_depth": 0.1, "max_depth": 10.0}
    yield from models(
        {},
        "zoedepth:ZoeDepthForDepthEstimation",
        inputs={"x": (1, 8, 4, 4)},
        options={
            "backbone_config": PLAIN
            | {
                "model_type": "beit",
                "num_hidden_layers": 4,
                "intermediate_size": 7,
                "image_size": 32,
                "patch_size": 8,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
                "reshape_hidden_states": False,
            },
            "neck_hidden_sizes": [8] * 4,
            "fusion_hidden_size": 8,
            "bottleneck_features": 8,
            "num_relative_features": 4,
            "bin_configurations": [bins | {"name": "near"}, bins | {"name": "far"}],
            "num_patch_transformer_layers": 4,
            "patch_transformer_hidden_size": 24,
            "patch_transformer_intermediate_size": 7,
            "patch_transformer_num_attention_heads": 6,
            "bin_embedding_dim": 8,
        },
        part="metric_head.patch_transformer",
        layers=(0, 1, 2, 3),
        expected=PLAIN,
    )


def families():
    """Entries of this area."""
    for group in (
        _windows,
        _pyramids,
        _stages_of_other_kinds,
        _shrinking,
        _towers,
        _more_towers,
        _parts_of_larger_models,
    ):
        yield from group()


def refused():
    """Pairs of an architecture and words of the reason."""
    for one, reason in (
        ("vjepa2-classifier:VJEPA2ForVideoClassification", "no output projection"),
        ("mobilevitv2:MobileViTV2Model", "no query meets a single key"),
        ("swiftformer:SwiftFormerModel", "no query meets a single key"),
    ):
        yield next(models({}, one, options=_SMALL)), reason
