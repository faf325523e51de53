"""Parts of multimodal models, by family from aimv2 to layoutlmv3: text parts, towers, query transformers.

Models with image and text as their input are in :mod:`validation.found_whole_multimodal_a_to_h`.
"""

from .found_architectures import FREE, GROUPED, MOE, PLAIN
from .found_whole_multimodal_a_to_h import (
    ARIA,
    DAVIT,
    GROUPED_TEXT,
    IMAGE,
    MEET_POSITIONS,
    PIXELS,
    TEXT,
    TOWER,
    TOWER_SIZES,
    of_each_kind,
)
from .tiny_models import Architecture, models

_KEYS_OF_POSITIONS = (
    "keys of positions have heads of their own beside the slices, which the permutation would have to move too"
)
_FLOAT32 = "it computes its attention in float32, whatever the precision of the model"
_CODES = {
    "base_channels": 32,
    "channel_multiplier": [1],
    "num_res_blocks": 1,
    "latent_channels": 32,
    "embed_dim": 4,
    "num_embeddings": 4,
    "resolution": 8,
}
_STAGES = {"depths": [2, 1], "num_group_tokens": [3, 0], "num_output_groups": [3, 0], "num_hidden_layers": 3}
_DIFFUSION = {
    "layer_types": ["sliding_attention", "full_attention"],
    "num_experts": 2,
    "top_k_experts": 1,
    "moe_intermediate_size": 7,
}
_GROUNDING = {
    "d_model": 96,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 12,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 7,
    "num_queries": 3,
    "num_feature_levels": 2,
    "text_config": {"model_type": "bert"} | TEXT,
    "backbone_config": {
        "model_type": "swin",
        "image_size": 16,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 1],
        "window_size": 2,
        "out_features": ["stage1", "stage2"],
    },
}


def _text_parts():
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}
    yield from models(PLAIN, "aimv2-text:Aimv2TextModel align-text:AlignTextModel")
    yield from models(
        FREE,
        "cosmos3_edge-text:Cosmos3EdgeTextModel hunyuan_vl-text:HunYuanVLTextModel",
        options={"rope_parameters": rope},
    )
    yield from models(
        GROUPED, "granite4_vision-text:Granite4VisionTextModel granite_docling-text:GraniteDoclingTextModel"
    )
    yield from models(
        GROUPED, "glm_image-text:GlmImageTextModel", options={"rope_parameters": rope, "vision_vocab_size": 9}
    )
    yield from models(
        GROUPED | {"hidden_size": 48},
        "ernie4_5_vl_moe-text:Ernie4_5_VLMoeTextModel",
        options={"mlp_layer_types": ["dense", "dense"], "rope_parameters": rope | {"mrope_section": [1, 1, 2]}},
    )
    yield from models(
        GROUPED, "deepseek_ocr2-text:DeepseekOcr2TextModel", options=MOE | {"mlp_layer_types": ["dense", "sparse"]}
    )
    # Layers of full attention are wider than those of sliding attention.
    wide = {
        "hidden_size_per_layer_input": 3,
        "layer_types": ["sliding_attention", "full_attention"],
        "global_head_dim": 4,
    }
    yield from models(FREE, "gemma4_unified-text:Gemma4UnifiedTextModel", options=wide)
    yield from models(
        FREE,
        "embedding_gemma2-text:EmbeddingGemma2TextModel",
        options=wide,
        expected={"num_key_value_heads": (2, 1)},
    )
    crossing = {"is_decoder": True, "add_cross_attention": True}
    yield from of_each_kind(
        Architecture(
            "data2vec_text",
            "Data2VecTextModel",
            options=TEXT | crossing,
            inputs={"input_ids": "ids", "encoder_hidden_states": (1, 6, 24)},
        ),
        {
            "decoder": ("encoder.layer.*.attention", PLAIN),
            "cross": ("encoder.layer.*.crossattention", PLAIN),
        },
    )
    vq = {"vq_config": _CODES}
    yield from models(
        GROUPED,
        "chameleon:ChameleonModel",
        attention="layers.*.self_attn",
        options=vq | {"vocabulary_map": {"<image>": 4}},
        coupling=("q_norm", "k_norm"),
    )


def _towers():
    yield from models(
        PLAIN,
        "janus-vision:JanusVisionModel granite_docling-vision:GraniteDoclingVisionModel "
        "idefics3-vision:Idefics3VisionTransformer",
        options=IMAGE | {"out_hidden_size": 8, "scale_factor": 2, "deepstack_visual_indexes": [0]},
        inputs="pixels",
    )
    yield from models(
        PLAIN,
        "blip_2-vision:Blip2VisionModel instructblip-vision:InstructBlipVisionModel "
        "instructblipvideo-vision:InstructBlipVideoVisionModel",
        packing="concatenated",
        options=IMAGE,
        inputs="pixels",
    )
    yield Architecture(
        "gemma4-vision",
        "Gemma4VisionModel",
        sizes=FREE,
        options={"patch_size": 4, "position_embedding_size": 8, "pooling_kernel_size": 1},
        part="encoder",
        inputs={"inputs_embeds": (1, 4, 30)},
        fixed={"pixel_position_ids": [[[0, 0], [1, 0], [0, 1], [1, 1]]], "attention_mask": [[True] * 4]},
    )
    sam = IMAGE | {"output_channels": 8, "window_size": 0, "global_attn_indexes": [0, 1], "mlp_dim": 7}
    yield Architecture(
        "got_ocr2-vision",
        "GotOcr2Model",
        "concatenated",
        attention="vision_tower.layers.*.attn",
        expected=PLAIN,
        options={
            "image_token_id": 11,
            "vision_config": PLAIN | sam | {"num_hidden_layers": 2},
            "text_config": GROUPED_TEXT | {"model_type": "qwen2"},
        },
        inputs=PIXELS,
        fixed={"input_ids": [[3, 11, 5, 7]]},
        outside={"zeroed_weights": MEET_POSITIONS},
    )


def _other_towers():
    # Its text model makes masks that float64 does not fit in.
    kosmos = {
        "latent_query_num": 5,
        "vision_config": TOWER,
        "text_config": TEXT | {"embed_dim": 24, "attention_heads": 6, "layers": 2, "ffn_dim": 7},
    }
    yield Architecture(
        "kosmos2-vision", "Kosmos2Model", options=kosmos, part="vision_model", inputs=PIXELS, expected=TOWER_SIZES
    )
    yield Architecture(
        "kosmos2-projection",
        "Kosmos2Model",
        options=kosmos,
        part="image_to_text_projection",
        inputs={"features": (1, 6, 20)},
        layers=(0,),
        expected=PLAIN,
    )
    yield from of_each_kind(
        Architecture(
            "groupvit",
            "GroupViTVisionModel",
            options=PLAIN | IMAGE | _STAGES,
            inputs=PIXELS,
        ),
        {
            "vision": ("vision_model.encoder.stages.*.layers.*.self_attn", PLAIN, {"layers": (0, 1, 2)}),
            "assign": ("vision_model.encoder.stages.*.downsample.pre_assign_attn.attn", PLAIN, {"layers": (0,)}),
        },
    )
    yield Architecture(
        "aimv2-pooled",
        "Aimv2VisionModel",
        sizes=PLAIN,
        options=IMAGE,
        inputs="pixels",
        attention="encoder.layers.*.attention",
    )
    yield Architecture(
        "emu3-codes",
        "Emu3VQVAE",
        options={
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "latent_channels": 8,
            "embed_dim": 4,
            "codebook_size": 4,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "attn_resolutions": [0],
        },
        part="encoder",
        inputs={"pixel_values": (1, 4, 3, 8, 8)},
        attention="middle_block.attn_1",
        layers=(0,),
        expected={"hidden_size": 32, "num_attention_heads": 4},
    )
    yield Architecture(
        "grounding_dino-text",
        "GroundingDinoModel",
        options=_GROUNDING,
        part="encoder.layers.0.text_enhancer_layer",
        inputs={"hidden_states": (1, 6, 96)},
        fixed={"attention_masks": [[[True] * 6] * 6]},
        layers=(0,),
        expected=PLAIN | {"hidden_size": 96},
    )


def _packed_towers():
    """Towers that read the patches of all images as one sequence: one image of 2 x 4 patches for each sample."""
    grid = {"grid_thw": [[1, 2, 4]]}
    patches = {
        "depth": 2,
        "num_heads": 6,
        "in_channels": 3,
        "num_channels": 3,
        "image_size": 8,
        "patch_size": 2,
        "temporal_patch_size": 2,
        "temporal_merge_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": 10,
        "num_position_embeddings": 16,
        "num_patches": 16,
    }
    concatenated = {"packing": "concatenated", "options": patches, "fixed": grid}
    yield from models(
        PLAIN,
        "glm4v_moe-vision:Glm4vMoeVisionModel glm5_next-vision:Glm5NextVisionModel "
        "glm_ocr-vision:GlmOcrVisionModel cohere_compass-vision:CohereCompassVisionModel",
        inputs={"hidden_states": (1, 8, 24)},
        **concatenated | {"options": patches | {"deepstack_visual_indexes": [0]}},
    )
    yield from models(
        PLAIN, "glm_image-vision:GlmImageVisionModel", inputs={"pixel_values": (1, 8, 12)}, **concatenated
    )
    yield from models(
        PLAIN,
        "dots3_note-vision:Dots3NoteVisionModel",
        inputs={"pixel_values": (1, 8, 12)},
        **concatenated
        | {
            "options": patches
            | {
                "adapter_in_dim": 24,
                "adapter_out_dim": 8,
                "num_experts_per_tok": 1,
                "mlp_layer_types": ["dense", "dense"],
            }
        },
    )
    yield from models(
        PLAIN,
        "ernie4_5_vl_moe-vision:Ernie4_5_VLMoeVisionTransformerPretrainedModel",
        inputs={"hidden_states": (1, 8, 12)},
        joined={"hidden_states": 0},
        **concatenated,
    )
    yield from models(
        PLAIN | {"num_key_value_heads": 3},
        "exaone4_5-vision:Exaone4_5_VisionModel",
        inputs={"hidden_states": (1, 8, 24)},
        **concatenated | {"options": patches | {"window_size": 8, "fullatt_block_indexes": [1]}},
    )
    split = {"options": patches, "fixed": grid}
    yield from models(
        PLAIN,
        "cosmos3_edge-vision:Cosmos3EdgeVisionModel",
        inputs={"pixel_values": (1, 8, 12)},
        joined={"pixel_values": 0},
        **split,
    )
    yield from models(
        PLAIN,
        "hunyuan_vl-vision:HunYuanVLVisionTransformer",
        inputs={"pixel_values": (1, 8, 12)},
        joined={"pixel_values": 0},
        **split | {"options": patches | {"max_image_size": 8, "text_hidden_size": 8}},
    )
    yield from models(
        PLAIN,
        "kimi_k25-vision:Kimi_K25VisionModel",
        inputs={"pixel_values": (1, 8, 3, 2, 2)},
        joined={"pixel_values": 0},
        **split | {"options": patches | {"pos_emb_height": 4, "pos_emb_width": 4, "pos_emb_time": 2}},
    )
    yield from models(
        PLAIN,
        "inkling2-vision:Inkling2VisionModel",
        inputs={"pixel_values": (1, 2, 4, 4, 3)},
        fixed={"image_grid_thw": [[1, 1, 2]]},
        joined={"pixel_values": 0},
        options=patches | {"posemb_grid_size": 4, "projection_hidden_dim": 8, "text_hidden_size": 8},
    )


def _audio_towers():
    yield from models(
        GROUPED,
        "dots3_note-audio:Dots3NoteAudioModel",
        inputs={"input_features": (1, 8, 32)},
        fixed={"chunk_sample_lengths": [320]},
        options={
            "num_key_value_heads": 6,
            "feature_size": 8,
            "downsample_hidden_size": 4,
            "hop_length": 10,
            "adapter_input_size": 24,
            "adapter_out_dim": 8,
        },
        expected={"num_key_value_heads": 6},
    )
    yield from models(
        {"hidden_size": 24},
        "gemma3n-audio:Gemma3nAudioEncoder",
        expected=PLAIN,
        inputs={"audio_mel": (1, 32, 16)},
        fixed={"audio_mel_mask": [[False] * 32]},
        options={
            "conf_num_attention_heads": 6,
            "conf_num_hidden_layers": 2,
            "input_feat_size": 16,
            "sscp_conv_channel_size": [8, 4],
            "conf_attention_chunk_size": 4,
            "conf_attention_context_left": 3,
            "conf_reduction_factor": 1,
        },
        outside={"reference_gradients": _FLOAT32, "zeroed_weights": MEET_POSITIONS, "relabelling": _KEYS_OF_POSITIONS},
    )


def refused():
    """Pairs of an architecture whose heads cannot be placed and words of the reason."""
    yield Architecture("aimv2-pooling", "Aimv2VisionModel", sizes=PLAIN, options=IMAGE), "one learned token"
    yield Architecture("aria", "AriaModel", options=ARIA), "as one parameter"
    yield Architecture("chameleon-codes", "ChameleonVQVAE", options=_CODES), "are convolutions"
    yield (
        Architecture("diffusion_gemma", "DiffusionGemmaEncoderTextModel", sizes=FREE, options=_DIFFUSION),
        "use their keys",
    )
    yield Architecture("florence2-vision", "Florence2VisionBackbone", options=DAVIT), "between channels"
    yield Architecture("grounding_dino", "GroundingDinoModel", options=_GROUNDING), "in one of its two directions"
    yield (
        Architecture("grounding_dino-decoder", "GroundingDinoModel", options=_GROUNDING, part="decoder"),
        "has no keys",
    )
    yield Architecture("groupvit", "GroupViTVisionModel", sizes=PLAIN, options=IMAGE | _STAGES), "to one group"


def families():
    """Entries of families whose heads are found."""
    for group in (_text_parts, _towers, _other_towers, _packed_towers, _audio_towers):
        yield from group()
