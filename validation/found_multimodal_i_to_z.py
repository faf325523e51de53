"""Towers and text parts of models of images, sound and text, from lfm3_vl to x_clip."""

from .found_architectures import FREE, GROUPED, MOE, PLAIN
from .tiny_models import VOCAB_SIZE, Architecture, models

ROPE = {"rope_type": "default", "rope_theta": 1e4}
ROPE_3D = ROPE | {"mrope_section": [1, 1, 0]}
IMAGE = {"image_size": 8, "patch_size": 4, "num_channels": 3}
# Configurations inside of others take none of what all share.
LAYERS = PLAIN | {"num_hidden_layers": 2, "intermediate_size": 7}
TEXT = GROUPED | {
    "vocab_size": VOCAB_SIZE,
    "intermediate_size": 7,
    "num_hidden_layers": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
_BELOW = {"intermediate_size": 7, "num_hidden_layers": 2, "vocab_size": VOCAB_SIZE}

GATES = {
    "relabelling": "every head has a gate of its own beside its slices, which the permutation would have to move too"
}
POSITIONS = {"relabelling": "every head has its own bias by distance, which the permutation would have to move too"}

# Towers that read the patches of all images as one sequence: one image of 2 x 4 patches per sample.
_GRID = {"grid_thw": [[1, 2, 4]]}
QWEN = {
    "depth": 2,
    "num_heads": 6,
    "hidden_size": 24,
    "intermediate_size": 7,
    "in_channels": 3,
    "patch_size": 2,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 24,
    "num_position_embeddings": 16,
}
WINDOWS = {"window_size": 8, "fullatt_block_indexes": [1]}
DEEP = {"deepstack_visual_indexes": [0]}


def _patch_towers():
    rest = {"packing": "concatenated", "expected": PLAIN, "fixed": _GRID}
    rest["inputs"] = {"hidden_states": (1, 8, 24)}
    yield from models(
        PLAIN,
        "qwen3_5-vision:Qwen3_5VisionModel qwen3_5_moe-vision:Qwen3_5MoeVisionModel "
        "qwen4_exp-vision:Qwen4ExpVisionModel qwen3_vl_moe-vision:Qwen3VLMoeVisionModel",
        options=QWEN | DEEP,
        **rest,
    )
    experts = {"head_dim": 4, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 7}
    sound = {
        "d_model": 24,
        "encoder_layers": 2,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 7,
        "num_mel_bins": 8,
        "output_dim": 24,
        "max_source_positions": 32,
    }
    omni = {
        "audio_config": sound | {"n_window": 4},
        "vision_config": QWEN | WINDOWS,
        "text_config": TEXT | {"rope_parameters": ROPE_3D},
    }
    yield from models(
        {},
        "qwen2_5_omni-vision:Qwen2_5OmniThinkerModel",
        part="visual",
        options=omni,
        **rest | {"packing": "split"},
    )
    longer = {"n_window": 50, "n_window_infer": 100, "downsample_hidden_size": 4, "conv_chunksize": 500}
    omni_moe = {
        "audio_config": sound | longer,
        "vision_config": QWEN | DEEP,
        "text_config": TEXT | experts | {"rope_parameters": ROPE_3D},
    }
    thinker = "Qwen3OmniMoeThinkerForConditionalGeneration"
    yield Architecture("qwen3_omni_moe-vision", thinker, part="model.visual", options=omni_moe, **rest)
    heard = {"expected": PLAIN, "joined": {"input_features": 1}}
    yield Architecture(
        "qwen2_5_omni-audio",
        "Qwen2_5OmniThinkerModel",
        part="audio_tower",
        options=omni,
        inputs={"input_features": (1, 8, 8)},
        fixed={"feature_lens": [8], "aftercnn_lens": [4]},
        **heard,
    )
    yield Architecture(
        "qwen3_omni_moe-audio",
        thinker,
        part="model.audio_tower",
        options=omni_moe,
        inputs={"input_features": (1, 8, 40)},
        fixed={"feature_lens": [40]},
        **heard,
    )
    rest |= {"packing": "split", "inputs": {"pixel_values": (1, 8, 24)}}
    patches = {"patch_size": 2, "num_channels": 3, "spatial_merge_size": 2}
    yield from models(PLAIN, "minimax_m3_vl-vision:MiniMaxM3VLVisionModel", options=patches, **rest)
    rest["joined"] = {"pixel_values": 0}
    yield from models(
        PLAIN,
        "muse_glimmer-vision:MuseGlimmerVisionModel muse_spark-vision:MuseSparkVisionModel",
        options=patches | {"patch_temporal": 2, "pos_emb_height": 4, "pos_emb_width": 4},
        **rest,
    )
    yield from models(
        PLAIN | {"num_key_value_heads": 2},
        "lfm3_vl-vision:Lfm3VlVisionModel",
        options=patches | {"temporal_patch_size": 2, "in_channels": 3, "layer_types": ["full_attention"] * 2},
        **rest | {"expected": {}},
    )
    yield from models(
        PLAIN,
        "video_llama_3-vision:VideoLlama3VisionModel",
        options=patches,
        **rest | {"inputs": {"pixel_values": (1, 8, 12)}, "fixed": _GRID | {"merge_sizes": [2]}},
    )
    yield from models(
        PLAIN,
        "paddleocr_vl-vision:PaddleOCRVisionModel",
        options=IMAGE | {"spatial_merge_size": 2},
        inputs={"pixel_values": (1, 8, 3, 4, 4)},
        fixed=_GRID,
    )
    strips = {
        "options": {
            "vision_config": LAYERS | {"image_size": 16, "patch_size": 4, "insert_layer_id": 0},
            "text_config": TEXT | {"model_type": "qwen2"},
            "insert_layer_id": 0,
        },
        "inputs": {"pixel_values": (1, 1, 3, 4, 64)},
        "fixed": {"target_sizes": [[4, 4]]},
        "joined": {"pixel_values": 3},
        "part": "vision_tower",
        "expected": PLAIN,
    }
    yield from models(
        {},
        "minicpmv4_6-vision:MiniCPMV4_6Model minicpmv4_7-vision:MiniCPMV4_7Model minicpm_ocr-vision:MiniCPMOcrModel",
        attention="encoder.layers.*.self_attn",
        **strips,
    )
    yield Architecture(
        "minicpmv4_6-merger", "MiniCPMV4_6Model", attention="vit_merger.self_attn", layers=(0,), **strips
    )


def _towers():
    yield from models(
        PLAIN,
        "smolvlm-tower:SmolVLMVisionTransformer tipsv2-vision:Tipsv2VisionModel",
        options=IMAGE | {"mlp_ratio": 1},
        inputs="pixels",
    )
    yield from models(
        PLAIN,
        "step3p7-vision:Step3p7VisionModel",
        options=IMAGE | {"rope_parameters": ROPE},
        inputs="pixels",
    )
    widths = {"intermediate_size": 96, "vision_output_dim": 10, "projector_input_dim": 10, "projector_output_dim": 10}
    yield from models(
        PLAIN,
        "llama4-vision:Llama4VisionModel",
        options=IMAGE | widths | {"rope_parameters": ROPE},
        inputs="pixels",
    )
    pairs = {"image_size": [8, 8], "patch_size": [4, 4]}
    yield from models(PLAIN, "qianfan_ocr-vision:QianfanOCRVisionModel", options=pairs, inputs="pixels")
    yield from models(
        FREE,
        "molmo2-vision:Molmo2VisionModel",
        options={"image_size": [8, 8], "patch_size": 4, "num_position_embeddings": 4},
        inputs={"pixel_values": (1, 4, 48)},
    )
    # A pooling head beside the encoder, of another kind.
    encoder = "encoder.layers.*.self_attn"
    yield from models(
        PLAIN,
        "siglip-vision:SiglipVisionModel phi4_multimodal-vision:Phi4MultimodalVisionModel",
        options=IMAGE,
        inputs="pixels",
        attention=encoder,
    )
    yield from models(
        PLAIN,
        "siglip2-vision:Siglip2VisionModel",
        options=IMAGE | {"num_patches": 4},
        inputs={"pixel_values": (1, 4, 48)},
        fixed={"pixel_attention_mask": [[1, 1, 1, 1]], "spatial_shapes": [[2, 2]]},
        attention=encoder,
    )
    sound = {"num_blocks": 2, "input_size": 8, "time_reduction": 8, "nemo_conv_channels": 4}
    yield from models(
        PLAIN,
        "phi4_multimodal-audio:Phi4MultimodalAudioModel",
        options=sound | {"ext_pw_out_channel": 24, "depthwise_separable_out_channel": 24},
        inputs={"hidden_states": (1, 32, 8)},
        fixed={"mask": [[True] * 32]},
        outside=POSITIONS,
    )
    video = {
        "image_size": 8,
        "num_frames": 2,
        "tubelet_size": [1, 4, 4],
        "num_spatial_layers": 2,
        "num_temporal_layers": 2,
    }
    for kind in ("spatial", "temporal"):
        yield Architecture(
            f"videoprism-{kind}",
            "VideoPrismVisionModel",
            sizes=PLAIN,
            options=video,
            inputs={"pixel_values_videos": (1, 2, 3, 8, 8)},
            attention=f"{kind}_layers.*.attention",
        )
    yield from models(
        PLAIN,
        "x_clip-vision:XCLIPVisionModel",
        options=IMAGE | {"num_frames": 2},
        inputs={"pixel_values": (1, 2, 3, 8, 8)},
        joined={"pixel_values": 0},
        attention=encoder,
    )


def _text_parts():
    yield from models(
        PLAIN,
        "siglip-text:SiglipTextModel siglip2-text:Siglip2TextModel tipsv2-text:Tipsv2TextModel "
        "x_clip-text:XCLIPTextModel videoprism-text:VideoPrismTextModel",
    )
    yield from models(
        PLAIN,
        "sam3_lite_text-text:Sam3LiteTextTextModel",
        options={"use_repmixer_blocks": False, "projection_dim": 8},
    )
    yield from models(FREE, "molmo2-text:Molmo2TextModel")
    yield from models(FREE, "paddleocr_vl-text:PaddleOCRTextModel", options={"rope_parameters": ROPE_3D})
    yield from models(
        PLAIN, "unlimited_ocr-text:UnlimitedOcrTextModel", options=MOE | {"num_key_value_heads": 6, "head_dim": None}
    )
    yield from models(FREE, "muse_glimmer-text:MuseGlimmerTextModel", outside=GATES)
    yield from models(FREE, "muse_spark-text:MuseSparkTextModel", options=MOE | {"moe_hidden_size": 8}, outside=GATES)
    yield from models(
        FREE,
        "step3p7-text:Step3p7TextModel",
        options=MOE | {"sliding_window": 4, "layer_types": ["full_attention", "sliding_attention"]},
        outside=GATES,
    )
    indexer = {"index_n_heads": 2, "index_head_dim": 4, "index_block_size": 2, "index_topk_blocks": 2}
    yield from models(
        FREE,
        "minimax_m3_vl-text:MiniMaxM3VLTextModel",
        options=MOE
        | indexer
        | {
            "rotary_dim": 2,
            "layer_types": ["full_attention", "minimax_m3_sparse"],
            "shared_intermediate_size": 7,
            "dense_intermediate_size": 7,
        },
        outside={
            "relabelling": "every kv group has an indexer of its own, which the permutation would have to move too",
        },
    )
    delta = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 4,
        "linear_value_head_dim": 4,
    }
    indexer = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 4}
    rows = "the query projection also holds rows of a gate, which belong to no block"
    yield from models(
        FREE | {"head_dim": 8},
        "qwen4_exp-text:Qwen4ExpForCausalLM",
        options=MOE
        | delta
        | indexer
        | {"indexer_compress_ratio": 2, "hc_count": 2, "hc_lowrank": 4, "layer_types": ["full_attention"] * 2},
        gated=True,
        outside=dict.fromkeys(("slices_tile", "head_additivity", "relabelling"), rows),
    )
    speaker = {
        "code_predictor_config": FREE | _BELOW | {"num_code_groups": 3, "rope_parameters": ROPE},
        "text_config": FREE | _BELOW | MOE | {"rope_parameters": ROPE_3D},
        "num_code_groups": 3,
        "thinker_hidden_size": 24,
        "spatial_merge_size": 2,
    }
    yield Architecture(
        "qwen3_omni_moe-talker",
        "Qwen3OmniMoeTalkerForConditionalGeneration",
        options=speaker,
        part="code_predictor.model",
        inputs={"inputs_embeds": (1, 6, 30)},
        expected=FREE,
    )
    wave = {"codebook_size": 13, "num_quantizers": 2, "upsample_rates": [2], "upsampling_ratios": [2], "decoder_dim": 4}
    yield Architecture(
        "qwen3_omni_moe-wave",
        "Qwen3OmniMoeCode2Wav",
        sizes=GROUPED,
        options=wave | {"sliding_window": 4, "rope_parameters": ROPE},
        part="pre_transformer",
        inputs={"inputs_embeds": (1, 6, 24)},
    )


def families():
    """Entries of the models whose heads are found."""
    yield from _patch_towers()
    yield from _towers()
    yield from _text_parts()


def refused():
    """Pairs of an architecture whose heads cannot be placed and words of the reason."""
    (siglip,) = models(PLAIN, "siglip-pooling:SiglipVisionModel", options=IMAGE, inputs="pixels")
    yield siglip, "holds its projections as one parameter"
