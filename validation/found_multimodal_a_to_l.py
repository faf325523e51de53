"""Families of multimodal models, by name from aimv2 to layoutlmv3: text parts, towers, and whole models with both.

A whole model is looked at one kind of attention at a time, with an image and a text as its input: the heads of its
vision tower are scored by the loss of the whole, as those of its text part are.
"""

import dataclasses

from .found_architectures import FREE, GROUPED, MOE, PLAIN
from .tiny_models import VOCAB_SIZE, Architecture, models

_MEET_POSITIONS = "queries also meet positions, which still move them where the keys of the content are gone"
_HEAD_NORMS = "every head has norms of its own beside its slices, which the permutation would have to move too"
_JOINED = "it joins the patches of all images of a batch into one sequence, and collection refuses that"
_PACKED = dict.fromkeys(("reference_gradients", "reference_scores", "head_additivity", "zeroed_weights", "relabelling"), _JOINED)
_PARTS = {"vocab_size": VOCAB_SIZE, "intermediate_size": 7, "num_hidden_layers": 2, "max_position_embeddings": 32}
_TEXT = PLAIN | _PARTS | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GROUPED_TEXT = GROUPED | _TEXT
_IMAGE = {"image_size": 8, "patch_size": 4, "num_channels": 3}
# Fewer heads than in the text part, so that one cannot be taken for the other.
_TOWER_SIZES = {"hidden_size": 20, "num_attention_heads": 5}
_TOWER = _TOWER_SIZES | {"intermediate_size": 7, "num_hidden_layers": 2} | _IMAGE
_FOUR_HEADS = {"hidden_size": 24, "num_attention_heads": 4}
_IDS = {"input_ids": [[3, 11, 11, 11, 11, 5, 7]]}
_PIXELS = {"pixel_values": (1, 3, 8, 8)}


def _of_each_kind(one, kinds):
    """Entries of one model, by what each kind of attention is called in the table: ``(kind, what the layout states)``."""
    for which, (kind, stated, *rest) in kinds.items():
        more = rest[0] if rest else {}
        yield dataclasses.replace(one, name=f"{one.name}-{which}", attention=kind, expected=stated, **more)


def _whole_models():
    concatenated = {"packing": "concatenated"}
    yield from _of_each_kind(
        Architecture("git", "GitModel", options=_TEXT | {"vision_config": _TOWER}, inputs={"input_ids": "ids"} | _PIXELS),
        {
            "text": ("encoder.layer.*.attention", PLAIN),
            "vision": ("image_encoder.vision_model.encoder.layers.*.self_attn", _TOWER_SIZES),
        },
    )
    yield from _of_each_kind(
        Architecture(
            "blip",
            "BlipForConditionalGeneration",
            options={"text_config": _TEXT | {"encoder_hidden_size": 24}, "vision_config": _TOWER | _FOUR_HEADS},
            inputs={"input_ids": "ids"} | _PIXELS,
        ),
        {
            "text": ("text_decoder.bert.encoder.layer.*.attention", PLAIN),
            "cross": ("text_decoder.bert.encoder.layer.*.crossattention", PLAIN),
            "vision": ("vision_model.encoder.layers.*.self_attn", _FOUR_HEADS, concatenated),
        },
    )
    yield from _of_each_kind(
        Architecture(
            "flava",
            "FlavaModel",
            options={
                "hidden_size": 24,
                "projection_dim": 8,
                "text_config": _TEXT,
                "image_config": _TOWER | {"mask_token": False},
                "multimodal_config": _FOUR_HEADS | {"num_hidden_layers": 2, "intermediate_size": 7},
            },
            inputs={"input_ids": "ids"} | _PIXELS,
        ),
        {
            "text": ("text_model.encoder.layer.*.attention", PLAIN, {"output": "text_embeddings"}),
            "vision": ("image_model.encoder.layer.*.attention", _TOWER_SIZES),
            "fusion": ("multimodal_model.encoder.layer.*.attention", _FOUR_HEADS, {"output": "multimodal_embeddings"}),
        },
    )
    yield from _of_each_kind(
        Architecture(
            "idefics",
            "IdeficsModel",
            options=_TEXT
            | {
                "additional_vocab_size": 0,
                "alpha_initializer": "ones",
                "use_resampler": True,
                "vision_config": _TOWER | _FOUR_HEADS | {"embed_dim": 24},
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
            "vision": ("vision_model.encoder.layers.*.self_attn", _FOUR_HEADS),
            "perceiver": (
                "perceiver_resampler.blocks.*.0",
                {"hidden_size": 24, "num_attention_heads": 3, "head_dim": 4},
            ),
        },
    )
    yield from _of_each_kind(
        Architecture(
            "idefics2",
            "Idefics2Model",
            options={
                "image_token_id": 11,
                "text_config": _GROUPED_TEXT | {"model_type": "mistral"},
                "vision_config": _TOWER,
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
            fixed=_IDS,
        ),
        {
            "text": ("text_model.layers.*.self_attn", GROUPED),
            "vision": ("vision_model.encoder.layers.*.self_attn", _TOWER_SIZES),
            "perceiver": (
                "connector.perceiver_resampler.layers.*.self_attn",
                GROUPED | {"num_key_value_heads": 3, "head_dim": 5},
            ),
        },
    )


def _text_parts():
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}
    yield from models(PLAIN, "aimv2-text:Aimv2TextModel align-text:AlignTextModel")
    yield from models(
        FREE, "cosmos3_edge-text:Cosmos3EdgeTextModel hunyuan_vl-text:HunYuanVLTextModel", options={"rope_parameters": rope}
    )
    yield from models(GROUPED, "granite4_vision-text:Granite4VisionTextModel granite_docling-text:GraniteDoclingTextModel")
    yield from models(
        GROUPED, "glm_image-text:GlmImageTextModel", options={"rope_parameters": rope, "vision_vocab_size": 9}
    )
    yield from models(
        GROUPED,
        "ernie4_5_vl_moe-text:Ernie4_5_VLMoeTextModel",
        options={"mlp_layer_types": ["dense", "dense"], "rope_parameters": rope},
    )
    yield from models(
        GROUPED, "deepseek_ocr2-text:DeepseekOcr2TextModel", options=MOE | {"mlp_layer_types": ["dense", "sparse"]}
    )
    # Layers of full attention are wider than those of sliding attention.
    wide = {"hidden_size_per_layer_input": 3, "layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 4}
    yield from models(FREE, "gemma4_unified-text:Gemma4UnifiedTextModel", options=wide)
    yield from models(
        FREE,
        "embedding_gemma2-text:EmbeddingGemma2TextModel",
        options=wide,
        expected={"num_key_value_heads": (2, 1)},
    )
    crossing = {"is_decoder": True, "add_cross_attention": True}
    yield from _of_each_kind(
        Architecture("data2vec_text", "Data2VecTextModel", options=_TEXT | crossing, inputs={"input_ids": "ids", "encoder_hidden_states": (1, 6, 24)}),
        {
            "decoder": ("encoder.layer.*.attention", PLAIN),
            "cross": ("encoder.layer.*.crossattention", PLAIN),
        },
    )
    vq = {"vq_config": {"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "latent_channels": 32, "embed_dim": 4, "num_embeddings": 4, "resolution": 8}}
    yield from models(
        GROUPED,
        "chameleon:ChameleonModel",
        attention="layers.*.self_attn",
        options=vq | {"vocabulary_map": {"<image>": 4}},
        coupling=("q_norm", "k_norm"),
        outside={"relabelling": _HEAD_NORMS},
    )


def _qformers():
    sizes = {"hidden_size": 24, "num_attention_heads": 6, "cross_attention_frequency": 1, "encoder_hidden_size": 24}
    for name, prefix in (("blip_2", "Blip2"), ("instructblip", "InstructBlip"), ("instructblipvideo", "InstructBlipVideo")):
        queries = {"query_embeds": (1, 6, 24), "encoder_hidden_states": (1, 6, 24)}
        yield from _of_each_kind(
            Architecture(f"{name}-qformer", f"{prefix}QFormerModel", options=_TEXT | sizes, inputs=queries if name == "blip_2" else queries | {"input_ids": "ids"}),
            {
                "self": ("encoder.layer.*.attention", PLAIN),
                "cross": ("encoder.layer.*.crossattention", PLAIN),
            },
        )


def _towers():
    yield from models(
        PLAIN,
        "git-tower:GitVisionModel janus-vision:JanusVisionModel granite_docling-vision:GraniteDoclingVisionModel "
        "flava-tower:FlavaImageModel idefics3-vision:Idefics3VisionTransformer",
        options=_IMAGE | {"mask_token": False, "out_hidden_size": 8, "scale_factor": 2, "deepstack_visual_indexes": [0]},
        inputs="pixels",
    )
    yield from models(
        PLAIN,
        "blip_2-vision:Blip2VisionModel instructblip-vision:InstructBlipVisionModel "
        "instructblipvideo-vision:InstructBlipVideoVisionModel",
        packing="concatenated",
        options=_IMAGE,
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
    sam = _IMAGE | {"output_channels": 8, "window_size": 0, "global_attn_indexes": [0, 1], "mlp_dim": 7}
    yield Architecture("got_ocr2-vision", "GotOcr2Model", "concatenated", attention="vision_tower.layers.*.attn", expected=PLAIN, options={"image_token_id": 11, "vision_config": PLAIN | sam | {"num_hidden_layers": 2}, "text_config": _GROUPED_TEXT | {"model_type": "qwen2"}}, inputs=_PIXELS, fixed={"input_ids": [[3, 11, 5, 7]]}, outside={"zeroed_weights": _MEET_POSITIONS})


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
    concatenated = {"packing": "concatenated", "options": patches, "fixed": grid, "outside": _PACKED}
    yield from models(
        PLAIN,
        "glm4v-vision:Glm4vVisionModel glm4v_moe-vision:Glm4vMoeVisionModel glm5_next-vision:Glm5NextVisionModel "
        "glm_ocr-vision:GlmOcrVisionModel cohere_compass-vision:CohereCompassVisionModel",
        inputs={"hidden_states": (1, 8, 24)},
        **concatenated | {"options": patches | {"deepstack_visual_indexes": [0]}},
    )
    yield from models(PLAIN, "glm_image-vision:GlmImageVisionModel", inputs={"pixel_values": (1, 8, 12)}, **concatenated)
    yield from models(PLAIN, "dots3_note-vision:Dots3NoteVisionModel", inputs={"pixel_values": (1, 8, 12)}, **concatenated | {"options": patches | {"adapter_in_dim":24, "adapter_out_dim":8, "num_experts_per_tok":1, "mlp_layer_types":["dense","dense"]}})
    yield from models(PLAIN, "ernie4_5_vl_moe-vision:Ernie4_5_VLMoeVisionTransformerPretrainedModel", inputs={"hidden_states": (1, 8, 12)}, joined={"hidden_states": 0}, **concatenated)
    yield from models(
        PLAIN | {"num_key_value_heads": 3},
        "exaone4_5-vision:Exaone4_5_VisionModel",
        inputs={"hidden_states": (1, 8, 24)},
        **concatenated | {"options": patches | {"window_size": 8, "fullatt_block_indexes": [1]}},
    )
    split = {"options": patches, "fixed": grid, "outside": _PACKED}
    yield from models(PLAIN, "cosmos3_edge-vision:Cosmos3EdgeVisionModel", inputs={"pixel_values": (1, 8, 12)}, joined={"pixel_values": 0}, **split)
    yield from models(PLAIN, "hunyuan_vl-vision:HunYuanVLVisionTransformer", inputs={"pixel_values": (1, 8, 12)}, joined={"pixel_values": 0}, **split | {"options": patches | {"max_image_size": 8, "text_hidden_size": 8}})
    yield from models(PLAIN, "kimi_k25-vision:Kimi_K25VisionModel", inputs={"pixel_values": (1, 8, 3, 2, 2)}, joined={"pixel_values": 0}, **split | {"options": patches | {"pos_emb_height": 4, "pos_emb_width": 4, "pos_emb_time": 2}})
    yield from models(PLAIN, "inkling2-vision:Inkling2VisionModel", inputs={"pixel_values": (1, 2, 4, 4, 3)}, fixed={"image_grid_thw": [[1, 1, 2]]}, joined={"pixel_values": 0}, options=patches | {"posemb_grid_size": 4, "projection_hidden_dim": 8, "text_hidden_size": 8}, outside=_PACKED)


def _audio_towers():
    yield from models(
        GROUPED,
        "dots3_note-audio:Dots3NoteAudioModel",
        inputs={"input_features": (1, 8, 32)},
        fixed={"chunk_sample_lengths": [320]},
        options={"num_key_value_heads": 6, "feature_size": 8, "downsample_hidden_size": 4, "hop_length": 10, "adapter_input_size": 24, "adapter_out_dim": 8},
        expected={"num_key_value_heads": 6},
    )
    yield from models(
        PLAIN,
        "gemma4-audio:Gemma4AudioModel",
        inputs={"input_features": (1, 32, 16)},
        options={"subsampling_conv_channels": [8, 4], "attention_chunk_size": 4, "attention_context_left": 3, "output_proj_dims": 8},
    )
    yield from models(
        {"hidden_size": 24},
        "gemma3n-audio:Gemma3nAudioEncoder",
        expected=PLAIN,
        inputs={"audio_mel": (1, 32, 16)},
        fixed={"audio_mel_mask": [[False] * 32]},
        options={"conf_num_attention_heads": 6, "conf_num_hidden_layers": 2, "input_feat_size": 16, "sscp_conv_channel_size": [8, 4], "conf_attention_chunk_size": 4, "conf_attention_context_left": 3, "conf_reduction_factor": 1},
    )


def _more_whole_models():
    positions = [[False, True, True, True, True, True, False, False]]
    yield from _of_each_kind(
        Architecture(
            "kosmos2",
            "Kosmos2Model",
            options={
                "latent_query_num": 5,
                "vision_config": _TOWER,
                "text_config": _TEXT | {"embed_dim": 24, "attention_heads": 6, "layers": 2, "ffn_dim": 7},
            },
            inputs=_PIXELS,
            fixed={"input_ids": [[3, 4, 4, 4, 4, 4, 5, 7]], "image_embeds_position_mask": positions},
        ),
        {
            "text": ("text_model.model.layers.*.self_attn", PLAIN, {"coupling": ("inner_attn_ln",)}),
            "vision": ("vision_model.model.encoder.layers.*.self_attn", _TOWER_SIZES),
            "projection": ("image_to_text_projection.x_attn", PLAIN, {"layers": (0,)}),
        },
    )
    yield from _of_each_kind(
        Architecture(
            "bridgetower",
            "BridgeTowerModel",
            options=PLAIN | {
                "num_hidden_layers": 2,
                "text_config": _TEXT,
                "vision_config": _IMAGE | {"hidden_size": 64, "num_hidden_layers": 2},
            },
            inputs={"input_ids": "ids"} | _PIXELS,
        ),
        {
            "text": ("text_model.encoder.layer.*.attention", PLAIN),
            "text_self": ("cross_modal_text_layers.*.attention", PLAIN),
            "text_cross": ("cross_modal_text_layers.*.crossattention", PLAIN),
            "image_cross": ("cross_modal_image_layers.*.crossattention", PLAIN),
        },
    )
    yield from _of_each_kind(
        Architecture(
            "aria",
            "AriaModel",
            options={
                "image_token_id": 11,
                "projector_patch_to_query_dict": {4: 4},
                "vision_config": _TOWER | {"model_type": "idefics3_vision"},
                "text_config": _GROUPED_TEXT | MOE | {"model_type": "aria_text", "moe_num_experts": 2, "moe_topk": 1, "moe_num_shared_experts": 1},
            },
            inputs=_PIXELS,
            fixed=_IDS,
        ),
        {
            "text": ("language_model.layers.*.self_attn", GROUPED),
            "vision": ("vision_tower.encoder.layers.*.self_attn", _TOWER_SIZES),
        },
    )
    yield from _of_each_kind(
        Architecture(
            "florence2",
            "Florence2Model",
            options={
                "image_token_id": 11,
                "text_config": {"model_type": "bart", "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 6, "decoder_attention_heads": 4, "encoder_ffn_dim": 7, "decoder_ffn_dim": 7, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
                "vision_config": {
                    "depths": [1, 1],
                    "patch_size": [3, 3],
                    "patch_stride": [2, 2],
                    "patch_padding": [1, 1],
                    "patch_prenorm": [False, True],
                    "embed_dim": [20, 20],
                    "num_heads": [5, 5],
                    "num_groups": [5, 5],
                    "window_size": 4,
                    "projection_dim": 24,
                    "max_temporal_embeddings": 4,
                    "max_position_embeddings": 8,
                },
            },
            inputs=_PIXELS,
            fixed={"input_ids": [[3, 11, 11, 11, 11, 11, 5, 7]], "decoder_input_ids": [[3, 7, 4, 9]]},
        ),
        {
            "encoder": ("language_model.encoder.layers.*.self_attn", PLAIN),
            "cross": ("language_model.decoder.layers.*.encoder_attn", _FOUR_HEADS),
            "vision": ("vision_tower.blocks.*.*.spatial_block.window_attn", _TOWER_SIZES, {"packing": "concatenated"}),
        },
    )
    sam = _FOUR_HEADS | _IMAGE | {"num_hidden_layers": 2, "output_channels": 8, "downsample_channels": [8, 24], "window_size": 0, "global_attn_indexes": [0, 1], "mlp_dim": 7}
    yield from _of_each_kind(
        Architecture(
            "deepseek_ocr2",
            "DeepseekOcr2VisionModel",
            options={"sam_config": sam, "encoder_config": _GROUPED_TEXT},
            inputs=_PIXELS,
        ),
        {
            "vision": ("vision_encoder.layers.*.self_attn", GROUPED),
            "sam": ("sam_encoder.layers.*.attn", _FOUR_HEADS, {"packing": "concatenated", "outside": {"zeroed_weights": _MEET_POSITIONS}}),
            "sam-sdpa": ("sam_encoder.layers.*.attn", _FOUR_HEADS, {"packing": "concatenated", "implementation": "sdpa", "outside": {"zeroed_weights": _MEET_POSITIONS}}),
        },
    )
    yield from _of_each_kind(
        Architecture(
            "groupvit",
            "GroupViTVisionModel",
            options=PLAIN | _IMAGE | {"depths": [2, 1], "num_group_tokens": [3, 0], "num_output_groups": [3, 0], "num_hidden_layers": 3},
            inputs=_PIXELS,
        ),
        {
            "vision": ("encoder.stages.*.layers.*.self_attn", PLAIN, {"layers": (0, 1, 2)}),
            "assign": ("encoder.stages.*.downsample.pre_assign_attn.attn", PLAIN, {"layers": (0,)}),
        },
    )
    yield Architecture("aimv2-pooled", "Aimv2VisionModel", sizes=PLAIN, options=_IMAGE, inputs="pixels", attention="encoder.layers.*.attention")
    yield Architecture("emu3-codes", "Emu3VQVAE", options={"base_channels": 32, "channel_multiplier": [1], "num_res_blocks": 1, "latent_channels": 8, "embed_dim": 4, "codebook_size": 4, "hidden_size": 32, "num_attention_heads": 4, "attn_resolutions": [0]}, inputs={"pixel_values": (1, 2, 3, 8, 8)}, fixed={"image_sizes": [[8, 8]]}, expected={"hidden_size": 32, "num_attention_heads": 4})


def families():
    """Entries of families whose heads are found."""
    for group in (
        _whole_models,
        _more_whole_models,
        _text_parts,
        _qformers,
        _towers,
        _packed_towers,
        _audio_towers,
    ):
        yield from group()
