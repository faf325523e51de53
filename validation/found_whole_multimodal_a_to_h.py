"""Whole multimodal models, looked at one kind of attention at a time: text part, towers, and what is between them.

Image and text are inputs of the one model: the heads of its vision tower are scored by the loss of the whole, as those of
its text part are. Text part and tower differ in their heads; also in their width, but where a text part reads keys from
a tower, because the experiment on the layout compares what keys and queries read.
"""

import dataclasses

from .found_architectures import GROUPED, MOE, PLAIN
from .tiny_models import TWO_PARTS, VOCAB_SIZE, Architecture

MEET_POSITIONS = "queries also meet positions, which still move them where the keys of the content are gone"
PARTS = {"vocab_size": VOCAB_SIZE, "intermediate_size": 7, "num_hidden_layers": 2, "max_position_embeddings": 32}
TEXT = PLAIN | PARTS | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED_TEXT = GROUPED | TEXT
IMAGE = {"image_size": 8, "patch_size": 4, "num_channels": 3}
# Fewer heads than in the text part, so that one cannot be taken for the other.
TOWER_SIZES = {"hidden_size": 20, "num_attention_heads": 5}
TOWER = TOWER_SIZES | {"intermediate_size": 7, "num_hidden_layers": 2} | IMAGE
FOUR_HEADS = {"hidden_size": 24, "num_attention_heads": 4}
IDS = {"input_ids": [[3, 11, 11, 11, 11, 5, 7]]}
PIXELS = {"pixel_values": (1, 3, 8, 8)}

ARIA = {
    "experts_implementation": "eager",
    "image_token_id": 11,
    "projector_patch_to_query_dict": {4: 4},
    "vision_config": TOWER | {"model_type": "idefics3_vision"},
    "text_config": GROUPED_TEXT
    | MOE
    | {"model_type": "aria_text", "moe_num_experts": 2, "moe_topk": 1, "moe_num_shared_experts": 1},
}
DAVIT = {
    "depths": [1, 1],
    "patch_size": [3, 3],
    "patch_stride": [2, 1],
    "patch_padding": [1, 1],
    "patch_prenorm": [False, True],
    "embed_dim": [20, 20],
    "num_heads": [5, 5],
    "num_groups": [5, 5],
    "window_size": 4,
    "projection_dim": 24,
    "max_temporal_embeddings": 4,
    "max_position_embeddings": 8,
}


def of_each_kind(one, kinds):
    """Entries of one model, by what each kind of attention is called in the table: ``(kind, what the layout states)``."""
    for which, (kind, stated, *rest) in kinds.items():
        more = rest[0] if rest else {}
        yield dataclasses.replace(one, name=f"{one.name}-{which}", attention=kind, expected=stated, **more)


def _generative_models():
    concatenated = {"packing": "concatenated"}
    yield from of_each_kind(
        Architecture("git", "GitModel", options=TEXT | {"vision_config": TOWER}, inputs={"input_ids": "ids"} | PIXELS),
        {
            "text": ("encoder.layer.*.attention", PLAIN),
            "vision": ("image_encoder.vision_model.encoder.layers.*.self_attn", TOWER_SIZES),
        },
    )
    yield from of_each_kind(
        Architecture(
            "blip",
            "BlipForConditionalGeneration",
            options={"text_config": TEXT | {"encoder_hidden_size": 24}, "vision_config": TOWER | FOUR_HEADS},
            inputs={"input_ids": "ids"} | PIXELS,
        ),
        {
            "text": ("text_decoder.bert.encoder.layer.*.attention", PLAIN),
            "cross": ("text_decoder.bert.encoder.layer.*.crossattention", PLAIN),
            "vision": ("vision_model.encoder.layers.*.self_attn", FOUR_HEADS, concatenated),
        },
    )
    yield from of_each_kind(
        Architecture(
            "flava",
            "FlavaModel",
            options={
                "hidden_size": 24,
                "projection_dim": 8,
                "text_config": TEXT,
                "image_config": TOWER | {"mask_token": False},
                "multimodal_config": FOUR_HEADS | {"num_hidden_layers": 2, "intermediate_size": 7},
            },
            inputs={"input_ids": "ids"} | PIXELS,
        ),
        {
            "text": ("text_model.encoder.layer.*.attention", PLAIN, {"output": "text_embeddings"}),
            "vision": ("image_model.encoder.layer.*.attention", TOWER_SIZES),
            "fusion": ("multimodal_model.encoder.layer.*.attention", FOUR_HEADS, {"output": "multimodal_embeddings"}),
        },
    )
    yield from of_each_kind(
        Architecture(
            "idefics",
            "IdeficsModel",
            options=TEXT
            | {
                "additional_vocab_size": 0,
                "alpha_initializer": "ones",
                "use_resampler": True,
                "vision_config": TOWER | FOUR_HEADS | {"embed_dim": 24},
                "perceiver_config": {
                    "resampler_n_latents": 6,
                    "resampler_depth": 2,
                    "resampler_n_heads": 3,
                    "resampler_head_dim": 4,
                    "use_resampler": True,
                },
            },
            inputs={"input_ids": "ids", "pixel_values": (1, 1, 3, 8, 8)},
            fixed={"image_attention_mask": [[[1]] * 6]},
        ),
        {
            "text": ("layers.*.self_attn", PLAIN),
            "cross": ("gated_cross_attn_layers.*.cross_attn", PLAIN),
            "vision": ("vision_model.encoder.layers.*.self_attn", FOUR_HEADS),
            "perceiver": (
                "perceiver_resampler.blocks.*.0",
                {"hidden_size": 24, "num_attention_heads": 3, "head_dim": 4},
                # Norms of what it reads: checks take any norm inside of attention for one that heads share.
                {"coupling": ("context_layer_norm", "latents_layer_norm")},
            ),
        },
    )
    yield from of_each_kind(
        Architecture(
            "idefics2",
            "Idefics2Model",
            options={
                "image_token_id": 11,
                "text_config": GROUPED_TEXT | {"model_type": "mistral"},
                "vision_config": TOWER,
                "perceiver_config": {
                    "hidden_size": 24,
                    "resampler_n_latents": 4,
                    "resampler_depth": 2,
                    "resampler_n_heads": 6,
                    "resampler_head_dim": 5,
                    "num_key_value_heads": 3,
                },
            },
            inputs={"pixel_values": (1, 1, 3, 8, 8)},
            fixed=IDS,
        ),
        {
            "text": ("text_model.layers.*.self_attn", GROUPED),
            "vision": ("vision_model.encoder.layers.*.self_attn", TOWER_SIZES),
            "perceiver": (
                "connector.perceiver_resampler.layers.*.self_attn",
                GROUPED | {"num_key_value_heads": 3, "head_dim": 5},
            ),
        },
    )


def _models_of_other_structure():
    yield from of_each_kind(
        Architecture(
            "bridgetower",
            "BridgeTowerModel",
            options=PLAIN
            | {
                "num_hidden_layers": 2,
                "text_config": TEXT,
                "vision_config": IMAGE | {"hidden_size": 64, "num_hidden_layers": 2},
            },
            inputs={"input_ids": "ids"} | PIXELS,
        ),
        {
            "text": ("text_model.encoder.layer.*.attention", PLAIN),
            "text_self": ("cross_modal_text_layers.*.attention", PLAIN),
            "text_cross": ("cross_modal_text_layers.*.crossattention", PLAIN),
            "image_cross": ("cross_modal_image_layers.*.crossattention", PLAIN, {"output": "image_features"}),
        },
    )
    yield from of_each_kind(
        Architecture(
            "aria",
            "AriaModel",
            options=ARIA,
            inputs=PIXELS,
            fixed=IDS,
        ),
        {
            "text": ("language_model.layers.*.self_attn", GROUPED),
            "vision": ("vision_tower.encoder.layers.*.self_attn", TOWER_SIZES),
        },
    )
    yield from of_each_kind(
        Architecture(
            "florence2",
            "Florence2Model",
            options={
                "image_token_id": 11,
                "text_config": TWO_PARTS
                | {
                    "model_type": "bart",
                    "vocab_size": VOCAB_SIZE,
                    "max_position_embeddings": 32,
                    "pad_token_id": 0,
                    "bos_token_id": 1,
                    "eos_token_id": 2,
                },
                "vision_config": DAVIT,
            },
            inputs=PIXELS,
            fixed={"input_ids": [[3, *[11] * 17, 5, 7]], "decoder_input_ids": [[3, 7, 4, 9]]},
        ),
        {
            "encoder": ("language_model.encoder.layers.*.self_attn", PLAIN),
            "cross": ("language_model.decoder.layers.*.encoder_attn", FOUR_HEADS),
            "vision": ("vision_tower.blocks.*.0.spatial_block.window_attn", TOWER_SIZES, {"packing": "concatenated"}),
        },
    )
    sam = (
        FOUR_HEADS
        | IMAGE
        | {
            "num_hidden_layers": 2,
            "output_channels": 8,
            "downsample_channels": [8, 24],
            "window_size": 0,
            "global_attn_indexes": [0, 1],
            "mlp_dim": 7,
        }
    )
    yield from of_each_kind(
        Architecture(
            "deepseek_ocr2",
            "DeepseekOcr2VisionModel",
            options={"sam_config": sam, "encoder_config": GROUPED_TEXT},
            inputs=PIXELS,
        ),
        {
            "vision": ("vision_encoder.layers.*.self_attn", GROUPED),
            "sam": (
                "sam_encoder.layers.*.attn",
                FOUR_HEADS,
                {"packing": "concatenated", "outside": {"zeroed_weights": MEET_POSITIONS}},
            ),
            "sam-sdpa": (
                "sam_encoder.layers.*.attn",
                FOUR_HEADS,
                {"packing": "concatenated", "implementation": "sdpa", "outside": {"zeroed_weights": MEET_POSITIONS}},
            ),
        },
    )


def _packed_models():
    """Models whose towers read the patches of all images as one sequence: one image of 2 x 4 patches for each sample."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}
    patches = TOWER_SIZES | {
        "depth": 2,
        "num_heads": 5,
        "in_channels": 3,
        "image_size": 8,
        "patch_size": 2,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": 24,
        "intermediate_size": 7,
    }
    yield from of_each_kind(
        Architecture(
            "glm4v",
            "Glm4vModel",
            options={
                "image_token_id": 11,
                "image_start_token_id": 8,
                "image_end_token_id": 9,
                "video_token_id": 10,
                "text_config": GROUPED_TEXT | {"rope_parameters": rope},
                "vision_config": patches,
            },
            inputs={"pixel_values": (1, 8, 24)},
            joined={"pixel_values": 0},
            fixed={
                "input_ids": [[3, 8, 11, 11, 9, 5, 7]],
                "image_grid_thw": [[1, 2, 4]],
                "mm_token_type_ids": [[0, 0, 1, 1, 0, 0, 0]],
            },
        ),
        {
            "text": ("language_model.layers.*.self_attn", GROUPED),
            "vision": ("visual.blocks.*.attn", TOWER_SIZES, {"packing": "concatenated"}),
        },
    )


def _query_transformers():
    """Between image and text, with cross-attention to what the vision tower says."""
    sizes = {"hidden_size": 24, "num_attention_heads": 6, "cross_attention_frequency": 1, "encoder_hidden_size": 24}
    for name, prefix in (
        ("blip_2", "Blip2"),
        ("instructblip", "InstructBlip"),
        ("instructblipvideo", "InstructBlipVideo"),
    ):
        queries = {"query_embeds": (1, 6, 24), "encoder_hidden_states": (1, 6, 24)}
        yield from of_each_kind(
            Architecture(
                f"{name}-qformer",
                f"{prefix}QFormerModel",
                options=TEXT | sizes,
                inputs=queries if name == "blip_2" else queries | {"input_ids": "ids"},
            ),
            {
                "self": ("encoder.layer.*.attention", PLAIN),
                "cross": ("encoder.layer.*.crossattention", PLAIN),
            },
        )


def families():
    """Entries of whole models."""
    yield from _generative_models()
    yield from _models_of_other_structure()
    yield from _packed_models()
    yield from _query_transformers()
