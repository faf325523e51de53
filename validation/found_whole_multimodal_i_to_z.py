"""Whole models of images and text, from mllama to x_clip, looked at one kind of attention at a time.

The image is read into the text, so that what a tower computes reaches the loss through the text part. Beside them, models
that read documents and that find things in pictures.
"""

from .found_architectures import FREE, GROUPED, MOE, PLAIN
from .found_multimodal_i_to_z import DEEP, IMAGE, LAYERS, POSITIONS, QWEN, ROPE, ROPE_3D, TEXT, WINDOWS
from .tiny_models import VOCAB_SIZE, Architecture, models

_IMAGE_TOKEN = 12


def _text_and_image():
    """A text part and a vision tower in one model, each of them by its kind of attention."""
    image = {
        "input_ids": [[3, 12, 12, 7, 4, 9]],
        "image_grid_thw": [[1, 2, 4]],
        "mm_token_type_ids": [[0, 1, 1, 0, 0, 0]],
    }
    seen = {"inputs": {"pixel_values": (1, 8, 24)}, "fixed": image}
    text = TEXT | {"rope_parameters": ROPE_3D}
    for pair, parts in (
        ("qwen2_vl:Qwen2VLModel", {"text_config": text, "vision_config": QWEN | {"embed_dim": 24}}),
        ("qwen2_5_vl:Qwen2_5_VLModel", {"text_config": text, "vision_config": QWEN | WINDOWS}),
        ("qwen3_vl:Qwen3VLModel", {"text_config": text | {"head_dim": 4}, "vision_config": QWEN | DEEP}),
    ):
        name, model_class = pair.split(":")
        rest = seen | {"options": parts | {"image_token_id": _IMAGE_TOKEN}}
        yield Architecture(
            f"{name}-text", model_class, attention="language_model.layers.*.self_attn", expected=GROUPED, **rest
        )
        yield Architecture(
            f"{name}-vision",
            model_class,
            packing="concatenated",
            attention="visual.blocks.*.attn",
            expected=PLAIN,
            **rest,
        )
    yield from _kinds(
        "smolvlm",
        "SmolVLMModel",
        {
            "text": ("text_model.layers.*.self_attn", GROUPED),
            "vision": ("vision_model.encoder.layers.*.self_attn", PLAIN),
        },
        options={
            "vision_config": LAYERS | IMAGE,
            "text_config": TEXT | {"model_type": "llama"},
            "scale_factor": 2,
            "image_token_id": _IMAGE_TOKEN,
        },
        inputs={"pixel_values": (1, 1, 3, 8, 8)},
        fixed={"input_ids": [[3, 12, 7, 4, 9]]},
    )
    yield from _kinds(
        "ovis2",
        "Ovis2Model",
        {
            "text": ("language_model.layers.*.self_attn", GROUPED),
            "vision": ("vision_tower.transformer.encoder.layers.*.attention", PLAIN),
        },
        options={
            "vision_config": LAYERS | IMAGE | {"vocab_size": 9, "num_visual_indicator_tokens": 2},
            "text_config": TEXT | {"model_type": "qwen2"},
            "hidden_size": 24,
            "image_token_id": _IMAGE_TOKEN,
            "visual_indicator_token_ids": [10, 11],
        },
        inputs={"pixel_values": (1, 3, 8, 8)},
        fixed={"input_ids": [[3, 12, 12, 12, 12, 7, 4]]},
    )
    tiles = {
        "attention_heads": 6,
        "num_global_layers": 2,
        "max_num_tiles": 1,
        "vision_output_dim": 48,
        "intermediate_layers_indices": [0],
        "supported_aspect_ratios": [[1, 1]],
    }
    yield from _kinds(
        "mllama",
        "MllamaModel",
        {
            "text": ("language_model.layers.*.self_attn", GROUPED),
            "cross": ("language_model.layers.*.cross_attn", GROUPED),
            "vision": ("vision_model.transformer.layers.*.self_attn", PLAIN),
            "global": ("vision_model.global_transformer.layers.*.self_attn", PLAIN),
        },
        {"text": (0, 2), "cross": (1, 3)},
        options={
            "vision_config": {"hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 7} | tiles | IMAGE,
            "text_config": TEXT | {"cross_attention_layers": [1, 3], "num_hidden_layers": 4},
        },
        inputs={"input_ids": "ids", "pixel_values": (1, 1, 1, 3, 8, 8)},
        fixed={"aspect_ratio_ids": [[1]], "aspect_ratio_mask": [[[1]]], "cross_attention_mask": [[[[1]]] * 6]},
    )
    yield from models(
        GROUPED,
        "phi4_multimodal:Phi4MultimodalForCausalLM",
        packing="concatenated",
        options={
            "vision_config": LAYERS | IMAGE | {"feature_layer": -1, "crop_size": 8},
            "audio_config": PLAIN
            | {"num_blocks": 1, "input_size": 8, "intermediate_size": 7, "nemo_conv_channels": 4}
            | {"ext_pw_out_channel": 24, "depthwise_separable_out_channel": 24},
            "original_max_position_embeddings": 32,
        },
        attention="model.layers.*.self_attn",
    )


def _kinds(name, model_class, kinds, layers=None, **rest):
    """Entries of a model by kind of attention: ``{suffix: (kind, sizes)}``, and ``{suffix: layers}`` if not 0 and 1."""
    for suffix, (kind, sizes) in kinds.items():
        numbers = (layers or {}).get(suffix, (0, 1))
        yield Architecture(f"{name}-{suffix}", model_class, attention=kind, expected=sizes, layers=numbers, **rest)


def _documents():
    yield from models(
        PLAIN,
        "vilt:ViltModel",
        options=IMAGE,
        # Not from pixels: it draws patches at random.
        inputs={"input_ids": "ids", "image_embeds": (1, 4, 24)},
        fixed={"pixel_mask": [[1, 1, 1, 1]]},
    )
    # Its pictures cannot come in batches: the library reshapes positions that it has not repeated.
    yield from models(
        PLAIN,
        "tvp:TvpModel",
        options={"backbone_config": {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [24], "depths": [1]}},
        inputs={"hidden_states": (1, 6, 24)},
        part="encoder",
    )
    heads = FREE | {"num_key_value_heads": 6}
    for suffix, kind, outside in (
        ("encoder", "encoder.block.*.layer.0.SelfAttention", POSITIONS),
        ("decoder", "decoder.block.*.layer.0.SelfAttention", POSITIONS),
        ("cross", "decoder.block.*.layer.1.EncDecAttention", {}),
    ):
        yield Architecture(
            f"udop-{suffix}",
            "UdopModel",
            options={"d_model": 30, "num_heads": 6, "d_kv": 4, "num_layers": 2, "d_ff": 7}
            | {"max_2d_position_embeddings": 8, "image_size": 8, "patch_size": 4},
            inputs={"input_ids": "ids", "decoder_input_ids": "ids"},
            fixed={"bbox": [[[0.1, 0.1, 0.5, 0.5]] * 6]},
            attention=kind,
            expected=heads,
            outside=outside,
        )
    yield from models(
        {},
        "t5gemma2-encoder:T5Gemma2Model",
        options=_MERGED,
        part="encoder",
        attention="text_model.layers.*.self_attn",
        expected=FREE,
    )
    sam = {"image_size": 16, "patch_size": 4, "window_size": 2, "global_attn_indexes": [1], "mlp_dim": 7}
    reader = {
        "options": {
            "vision_config": {
                "sam_config": LAYERS | sam | {"output_channels": 4, "downsample_channels": [4, 24]},
                "encoder_config": LAYERS | {"image_size": 4, "patch_size": 4},
            },
            "text_config": TEXT | MOE | {"num_key_value_heads": 6},
        },
        "inputs": {"pixel_values": (1, 3, 16, 16)},
        "part": "vision_tower",
        "expected": PLAIN,
    }
    for suffix, implementation in (("sam", "eager"), ("sam_sdpa", "sdpa")):
        yield Architecture(
            f"unlimited_ocr-{suffix}",
            "UnlimitedOcrModel",
            packing="concatenated",
            attention="sam_encoder.layers.*.attn",
            implementation=implementation,
            outside=_DISTANCES,
            **reader,
        )
    yield Architecture(
        "unlimited_ocr-vision", "UnlimitedOcrModel", attention="vision_encoder.encoder.layers.*.self_attn", **reader
    )
    yield from models(
        PLAIN,
        "pp_formulanet-vision:PPFormulaNetVisionModel",
        packing="concatenated",
        options=IMAGE
        | {"output_channels": 4, "window_size": 1, "global_attn_indexes": [0, 1], "mlp_dim": 7}
        | {
            "post_conv_in_channels": 4,
            "post_conv_out_channels": 4,
            "post_conv_mid_channels": 4,
            "decoder_hidden_size": 8,
        },
        inputs="pixels",
        outside=_DISTANCES,
    )


def _detectors():
    backbone = {
        "model_type": "sam3_vit_model",
        "image_size": 8,
        "patch_size": 4,
        "window_size": 1,
        "global_attn_indexes": [0, 1],
        "pretrain_image_size": 8,
        "rope_parameters": ROPE,
    }
    yield from models(
        PLAIN,
        "sam3-vision:Sam3ViTModel",
        options=backbone | {"model_type": None, "patch_size": 2, "window_size": 2, "global_attn_indexes": [1]},
        inputs="pixels",
    )
    queries = {"hidden_size": 24, "num_layers": 2, "num_attention_heads": 6, "intermediate_size": 7}
    vision = {"fpn_hidden_size": 24, "backbone_feature_sizes": [[4, 4], [2, 2], [1, 1]]}
    text = LAYERS | {"vocab_size": VOCAB_SIZE, "projection_dim": 24, "max_position_embeddings": 32}
    sam = {
        "vision_config": vision | {"backbone_config": LAYERS | backbone},
        "text_config": text,
        "geometry_encoder_config": queries | {"roi_size": 2},
        "detr_encoder_config": queries,
        "detr_decoder_config": queries | {"num_queries": 3},
        "mask_decoder_config": {"hidden_size": 24, "num_attention_heads": 6},
    }
    prompted = {"inputs": {"input_ids": "ids", "pixel_values": (1, 3, 8, 8)}}
    yield from _kinds(
        "sam3",
        "Sam3Model",
        {
            "encoder": ("detr_encoder.layers.*.self_attn", PLAIN),
            "cross": ("detr_encoder.layers.*.cross_attn", PLAIN),
        },
        options=sam,
        **prompted,
    )
    yield Architecture(
        "sam3_lite_text-encoder",
        "Sam3LiteTextModel",
        options=sam | {"text_config": text | {"use_repmixer_blocks": False}},
        attention="detr_encoder.layers.*.self_attn",
        expected=PLAIN,
        **prompted,
    )
    latents = {
        "num_latents": 5,
        "d_latents": 24,
        "d_model": 24,
        "num_blocks": 1,
        "num_self_attends_per_block": 2,
        "num_self_attention_heads": 6,
        "num_cross_attention_heads": 2,
        "qk_channels": 12,
        "v_channels": 24,
    }
    yield from _kinds(
        "perceiver",
        "PerceiverModel",
        {
            "self": ("encoder.self_attends.*.attention", PLAIN | {"head_dim": 2, "v_head_dim": 4}),
            "cross": (
                "encoder.cross_attention.attention",
                {"hidden_size": 24, "num_attention_heads": 2, "head_dim": 6, "v_head_dim": 12},
            ),
        },
        {"cross": (0,)},
        options=latents,
        inputs={"inputs": (1, 6, 24)},
    )
    yield from _kinds(
        "mm_grounding_dino",
        "MMGroundingDinoModel",
        {
            "decoder": ("decoder.layers.*.self_attn", {"hidden_size": 32, "num_attention_heads": 8}),
            "cross": ("decoder.layers.*.encoder_attn_text", {"hidden_size": 32, "num_attention_heads": 8}),
        },
        options=_GROUNDING,
        inputs={"input_ids": "ids", "pixel_values": (1, 3, 32, 32)},
    )
    yield Architecture(
        "pp_doclayout_v2-decoder",
        "PPDocLayoutV2Model",
        options=_DOCLAYOUT,
        inputs={"pixel_values": (1, 3, 64, 64)},
        attention="decoder.layers.*.self_attn",
        expected=PLAIN,
    )
    prompts = {
        "text_config": LAYERS | {"vocab_size": VOCAB_SIZE, "max_position_embeddings": 32},
        "vision_config": LAYERS
        | IMAGE
        | {"num_frames": 2, "mit_hidden_size": 12, "mit_intermediate_size": 7, "mit_num_attention_heads": 2},
        "projection_dim": 12,
        "prompt_num_attention_heads": 3,
    }
    yield Architecture(
        "x_clip-cross",
        "XCLIPModel",
        options=prompts,
        part="prompts_generator",
        inputs={"text": (1, 4, 12), "visual": (1, 5, 12)},
        expected={"hidden_size": 12, "num_attention_heads": 3},
    )


_BELOW = {"intermediate_size": 7, "num_hidden_layers": 2, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 32}
_DECODER = FREE | _BELOW | {"layer_types": ["full_attention"] * 2, "rope_parameters": {"full_attention": ROPE}}
_MERGED = {
    "encoder": {"text_config": _DECODER, "vision_config": LAYERS | IMAGE | {"vision_use_head": False}},
    "decoder": _DECODER,
}
_DISTANCES = {"zeroed_weights": "queries also meet embeddings of distances, which stay where the keys are gone"}
_GROUNDING = {
    "backbone_config": {
        "model_type": "swin",
        "image_size": 32,
        "embed_dim": 4,
        "depths": [1, 1],
        "num_heads": [1, 1],
        "window_size": 2,
        "out_indices": [1, 2],
    },
    "text_config": LAYERS | {"model_type": "bert", "vocab_size": VOCAB_SIZE, "max_position_embeddings": 32},
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 7,
    "num_feature_levels": 2,
    "num_queries": 3,
    "max_text_len": 6,
}
_STAGES = {
    "stage_in_channels": [4] * 4,
    "stage_mid_channels": [4] * 4,
    "stage_out_channels": [4] * 4,
    "stage_num_blocks": [1] * 4,
    "stage_downsample": [False, True, True, True],
    "stage_light_block": [False] * 4,
    "stage_kernel_size": [3] * 4,
    "stage_numb_of_layers": [1] * 4,
    "hidden_sizes": [4] * 4,
    "depths": [1] * 4,
}
_DOCLAYOUT = {
    "backbone_config": _STAGES
    | {"model_type": "hgnet_v2", "stem_channels": [3, 4, 4], "embedding_size": 4}
    | {"out_features": ["stage2", "stage3", "stage4"]},
    "d_model": 24,
    "encoder_hidden_dim": 24,
    "encoder_in_channels": [4] * 3,
    "encoder_ffn_dim": 7,
    "encoder_attention_heads": 6,
    "decoder_in_channels": [24] * 3,
    "decoder_ffn_dim": 7,
    "decoder_layers": 2,
    "decoder_attention_heads": 6,
    "num_queries": 3,
    "num_denoising": 0,
    # Its validation of layer types takes these for stages of the backbone.
    "vocab_size": None,
    "intermediate_size": None,
    "num_hidden_layers": None,
    "max_position_embeddings": None,
}


def families():
    """Entries of the models whose heads are found."""
    yield from _text_and_image()
    yield from _documents()
    yield from _detectors()


def refused():
    """Pairs of an architecture whose heads cannot be placed and words of the reason."""
    inputs = {"input_ids": "ids", "pixel_values": (1, 3, 32, 32)}
    grounding = Architecture("mm_grounding_dino", "MMGroundingDinoModel", options=_GROUNDING, inputs=inputs)
    yield grounding, "the queries of one direction and the keys of the other"
    # The decoder's keys and values are made of its own states and of the encoder's by the same projections.
    yield Architecture("t5gemma2", "T5Gemma2Model", options=_MERGED, inputs="ids+ids"), "run several times"
    boxes = {"pixel_values": (1, 3, 64, 64)}
    yield Architecture("pp_doclayout_v2", "PPDocLayoutV2Model", options=_DOCLAYOUT, inputs=boxes), "and has no keys"
