"""Families of transformers whose heads are found, as data: adding one is adding an entry.

Hidden size, heads, kv heads and head_dim are all different where the family allows it. The families that everything else
is validated on are in :mod:`validation.families`; these are here to show that their layout is what they compute.
"""

import functools

from .latent_architectures import latent_models
from .tiny_models import Architecture, causal_models, models

# Where the family allows it, head_dim is not hidden_size / heads; else heads may share kv heads; else not.
FREE = {"hidden_size": 30, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4}
GROUPED = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2}
PLAIN = {"hidden_size": 24, "num_attention_heads": 6}
ONE = {"num_key_value_heads": 1}
EIGHT = {"hidden_size": 40, "num_attention_heads": 8}

MOE = {
    "num_experts": 2,
    "num_local_experts": 2,
    "n_routed_experts": 2,
    "n_shared_experts": 1,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 7,
    "shared_expert_intermediate_size": 7,
    # The grouped product of the experts has no float64.
    "experts_implementation": "eager",
}
_IMAGE = {"image_size": 8, "patch_size": 4, "num_channels": 3}
_FULL_NORMS = ("q_norm", "k_norm")


def _split_language_models():
    yield from causal_models(
        FREE,
        "arcee:Arcee cohere2:Cohere2 cwm:Cwm ernie4_5:Ernie4_5 flint:Flint gemma:Gemma gemma2:Gemma2 gemma3:Gemma3 "
        "glm:Glm glm4:Glm4 hunyuan_v1_dense:HunYuanDenseV1 hyperclovax:HyperCLOVAX jais2:Jais2 llama:Llama "
        "ministral:Ministral ministral3:Ministral3 mistral:Mistral nemotron:Nemotron qwen3:Qwen3 seed_oss:SeedOss "
        "vaultgemma:VaultGemma",
    )
    yield from causal_models(
        FREE,
        "afmoe:Afmoe aria_text:AriaText cohere2_moe:Cohere2Moe gpt_oss:GptOss hunyuan_v1_moe:HunYuanMoEV1 "
        "hy_v3:HYV3 kolibri1:Kolibri1 laguna:Laguna llama4:Llama4 mellum:Mellum mixtral:Mixtral qwen3_moe:Qwen3Moe "
        "solar_open:SolarOpen",
        options=MOE,
    )
    yield from causal_models(
        GROUPED,
        "apertus:Apertus cohere:Cohere exaone4:Exaone4 granite:Granite granite_swa:GraniteSWA "
        "nanochat:NanoChat olmo:Olmo qwen2:Qwen2 smollm3:SmolLM3 stablelm:StableLm starcoder2:Starcoder2 phi:Phi",
    )
    yield from causal_models(
        GROUPED,
        "dots1:Dots1 ernie4_5_moe:Ernie4_5_Moe exaone_moe:ExaoneMoe glm4_moe:Glm4Moe granitemoe:GraniteMoe "
        "granitemoe_swa:GraniteMoeSWA granitemoeshared:GraniteMoeShared phimoe:Phimoe qwen2_moe:Qwen2Moe",
        options=MOE,
    )
    yield from causal_models(GROUPED, "olmo2:Olmo2 olmo3:Olmo3", coupling=_FULL_NORMS)
    yield from causal_models(GROUPED, "olmoe:Olmoe flex_olmo:FlexOlmo", coupling=_FULL_NORMS, options=MOE)
    yield from causal_models(FREE, "minimax_m2:MiniMaxM2", coupling=_FULL_NORMS, options=MOE)
    yield from causal_models(GROUPED | {"head_dim": 4}, "helium:Helium")
    yield from causal_models(
        FREE | {"num_key_value_heads": 1, "v_head_dim": 6},
        "mimo_v2_flash:MiMoV2Flash",
        expected={"num_key_value_heads": (1, 2)},
        options=MOE | {"layer_types": ["full_attention", "sliding_attention"]},
    )
    yield from causal_models(GROUPED, "bitnet:BitNet", coupling=("attn_sub_norm",))
    yield from causal_models(PLAIN, "biogpt:BioGpt gptj:GPTJ", options={"rotary_dim": 2, "n_inner": 7})
    yield from causal_models(PLAIN, "modernbert_decoder:ModernBertDecoder")
    yield from causal_models(PLAIN, "opt:OPT", options={"ffn_dim": 7, "word_embed_proj_dim": 24})
    yield from causal_models(
        PLAIN, "gpt_neo:GPTNeo", options={"attention_types": [[["global", "local"], 1]], "window_size": 4}
    )
    yield Architecture("ctrl", "CTRLLMHeadModel", sizes=PLAIN, options={"dff": 7})


def _parts_of_multimodal_models():
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}
    yield from models(
        GROUPED, "qwen2_vl_text:Qwen2VLTextModel qwen2_5_vl_text:Qwen2_5_VLTextModel", options={"rope_parameters": rope}
    )
    yield from models(FREE, "qwen3_vl_text:Qwen3VLTextModel", options={"rope_parameters": rope})
    yield from models(FREE, "qwen3_vl_moe_text:Qwen3VLMoeTextModel", options=MOE | {"rope_parameters": rope})
    yield from models(GROUPED, "glm4v_text:Glm4vTextModel", options={"rope_parameters": rope})
    yield from models(
        GROUPED,
        "glm_ocr_text:GlmOcrTextModel qwen2_5_omni_text:Qwen2_5OmniThinkerTextModel",
        options={"rope_parameters": rope},
    )
    yield from models(FREE, "qwen3_omni_moe_text:Qwen3OmniMoeThinkerTextModel", options=MOE | {"rope_parameters": rope})
    partial_rope = rope | {"mrope_section": [1, 0, 0], "partial_rotary_factor": 0.5}
    yield from models(GROUPED, "glm4v_moe_text:Glm4vMoeTextModel", options=MOE | {"rope_parameters": partial_rope})
    yield from models(FREE, "higgs_audio_v2:HiggsAudioV2Model", options={"codebook_size": 8, "num_codebooks": 2})
    yield from models(GROUPED, "mllama_text:MllamaTextModel", options={"cross_attention_layers": []})
    yield from models(GROUPED, "emu3:Emu3TextModel")
    yield from models(
        GROUPED, "cohere_compass:CohereCompassTextModel", options={"rope_parameters": {"full_attention": rope}}
    )


def _hybrid_language_models():
    delta = {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 4,
        "linear_value_head_dim": 4,
    }
    for pair, options in (
        ("qwen3_next:Qwen3Next", MOE | delta),
        ("qwen3_5:Qwen3_5", delta),
        ("qwen3_5_moe:Qwen3_5Moe", MOE | delta),
    ):
        yield from causal_models(FREE | {"head_dim": 8}, pair, layers=(1,), gated=True, options=options)
    yield from causal_models(
        FREE, "lfm3:Lfm3", layers=(1,), options={"layer_types": ["conv", "full_attention"], "use_attention_gate": True}
    )
    yield from causal_models(
        GROUPED,
        "jamba:Jamba",
        layers=(1,),
        options=MOE | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 3},
    )
    mamba = {"mamba_n_heads": 4, "mamba_d_head": 12, "mamba_n_groups": 1, "mamba_d_state": 3, "mamba_expand": 2}
    yield from causal_models(GROUPED, "bamba:Bamba", layers=(1,), options=mamba | {"attn_layer_indices": [1]})
    yield from causal_models(
        GROUPED,
        "granitemoehybrid:GraniteMoeHybrid",
        layers=(1,),
        options=MOE | mamba | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 7},
    )
    yield from causal_models(GROUPED, "falcon_h1:FalconH1", options=mamba | {"mamba_d_ssm": 48})
    yield from causal_models(GROUPED, "lfm2:Lfm2", layers=(1,), options={"layer_types": ["conv", "full_attention"]})
    yield from causal_models(
        GROUPED, "lfm2_moe:Lfm2Moe", layers=(1,), options=MOE | {"layer_types": ["conv", "full_attention"]}
    )
    yield from causal_models(
        GROUPED,
        "olmo_hybrid:OlmoHybrid",
        layers=(1,),
        coupling=_FULL_NORMS,
        options=delta,
    )
    yield from causal_models(
        FREE,
        "recurrent_gemma:RecurrentGemma",
        layers=(1,),
        options={"block_types": ["recurrent", "attention"], "lru_width": 24},
    )
    yield from causal_models(
        FREE,
        "nemotron_h:NemotronH",
        layers=(1,),
        options={"layers_block_type": ["mlp", "full_attention", "mlp"], "num_hidden_layers": 3},
    )
    yield from causal_models(
        FREE, "minimax:MiniMax", layers=(0,), options=MOE | {"layer_types": ["full_attention", "linear_attention"]}
    )


def _fused_language_models():
    yield from causal_models(GROUPED, "phi3:Phi3", packing="concatenated")
    yield from causal_models(PLAIN, "mpt:Mpt", packing="concatenated", options={"max_seq_len": 32})
    yield from models(PLAIN, "gpt2:GPT2LMHeadModel openai:OpenAIGPTLMHeadModel", packing="concatenated")
    yield from causal_models(
        {},
        "dbrx:Dbrx",
        packing="concatenated",
        expected=GROUPED,
        options=MOE
        | {
            "d_model": 24,
            "n_heads": 6,
            "n_layers": 2,
            "max_seq_len": 32,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
            "ffn_config": {"ffn_hidden_size": 7, "hidden_size": 24, "moe_num_experts": 2, "moe_top_k": 1},
        },
    )
    yield from causal_models(
        PLAIN, "gpt_bigcode:GPTBigCode", packing="concatenated", expected=ONE, options={"multi_query": True}
    )
    yield Architecture("gpt_bigcode-heads", "GPTBigCodeForCausalLM", "interleaved", PLAIN, {"multi_query": False})
    yield from causal_models(EIGHT, "codegen:CodeGen", packing="blocked", options={"rotary_dim": 2, "n_inner": 7})
    yield from causal_models(
        PLAIN, "bloom:Bloom gpt_neox:GPTNeoX gpt_neox_japanese:GPTNeoXJapanese", packing="interleaved"
    )
    yield from causal_models(
        PLAIN, "persimmon:Persimmon", packing="interleaved", coupling=("q_layernorm", "k_layernorm")
    )
    old = {"new_decoder_architecture": False, "bias": True, "alibi": False}
    yield Architecture("falcon", "FalconForCausalLM", "concatenated", PLAIN, old | {"multi_query": True}, expected=ONE)
    yield Architecture("falcon-heads", "FalconForCausalLM", "interleaved", PLAIN, old | {"multi_query": False})
    yield Architecture(
        "falcon-groups",
        "FalconForCausalLM",
        "grouped",
        PLAIN,
        {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
        expected={"num_key_value_heads": 2},
    )


def _encoders():
    yield from models(
        PLAIN,
        "bert:BertForMaskedLM camembert:CamembertForMaskedLM data2vec_text:Data2VecTextForMaskedLM "
        "electra:ElectraForMaskedLM ernie:ErnieForMaskedLM esm:EsmForMaskedLM megatron_bert:MegatronBertForMaskedLM "
        "rembert:RemBertForMaskedLM roberta:RobertaForMaskedLM "
        "roberta_prelayernorm:RobertaPreLayerNormForMaskedLM roformer:RoFormerForMaskedLM "
        "xlm_roberta:XLMRobertaForMaskedLM xlm_roberta_xl:XLMRobertaXLForMaskedLM "
        "distilbert:DistilBertForMaskedLM mpnet:MPNetForMaskedLM gte:GteForMaskedLM splinter:SplinterModel",
        options={"embedding_size": 24, "input_embedding_size": 24, "output_embedding_size": 24, "hidden_dim": 7},
    )
    yield from models(PLAIN, "bert_generation:BertGenerationEncoder bert-lm:BertLMHeadModel")
    yield from models(FREE, "eurobert:EuroBertForMaskedLM")
    yield from models(PLAIN, "modernbert:ModernBertForMaskedLM", packing="concatenated")
    yield from models(PLAIN, "xlm:XLMModel flaubert:FlaubertModel", options={"n_langs": 1, "emb_dim": 24})
    yield from models(
        PLAIN,
        "vit:ViTModel deit:DeiTModel dinov2:Dinov2Model dinov2_with_registers:Dinov2WithRegistersModel "
        "dinov3_vit:DINOv3ViTModel beit:BeitModel ijepa:IJepaModel vit_msn:ViTMSNModel "
        "data2vec_vision:Data2VecVisionModel clip_vision:CLIPVisionModel mlcd:MLCDVisionModel",
        options=_IMAGE,
        inputs="pixels",
    )
    yield from models(
        PLAIN,
        "siglip:SiglipVisionModel aimv2:Aimv2VisionModel",
        options=_IMAGE,
        inputs="embeds",
        part="encoder",
    )
    yield from models(PLAIN, "vit_mae:ViTMAEModel", inputs="pixels", options=_IMAGE | {"mask_ratio": 0.0})
    yield from models(
        PLAIN,
        "chinese_clip_vision:ChineseCLIPVisionModel internvl_vision:InternVLVisionModel",
        options=_IMAGE,
        inputs="pixels",
    )
    yield from models(
        PLAIN, "yolos:YolosModel", options=_IMAGE | {"image_size": [8, 8], "num_detection_tokens": 2}, inputs="pixels"
    )
    yield from models(
        PLAIN,
        "vivit:VivitModel",
        options=_IMAGE | {"num_frames": 2, "tubelet_size": [2, 4, 4]},
        inputs="video",
    )
    yield from models(
        PLAIN, "videomae:VideoMAEModel", options=_IMAGE | {"num_frames": 2, "tubelet_size": 2}, inputs="video"
    )
    yield from models(
        PLAIN,
        "altclip_vision:AltCLIPVisionModel clipseg_vision:CLIPSegVisionModel "
        "metaclip_2_vision:MetaClip2VisionModel owlv2_vision:Owlv2VisionModel owlvit_vision:OwlViTVisionModel",
        options=_IMAGE,
        inputs="pixels",
    )
    yield from models(PLAIN, "blip_vision:BlipVisionModel", packing="concatenated", options=_IMAGE, inputs="pixels")
    yield from models(PLAIN | {"head_dim": 4}, "pixtral_vision:PixtralVisionModel", options=_IMAGE, inputs="pixels")
    yield from models(PLAIN, "groupvit_text:GroupViTTextModel chinese_clip_text:ChineseCLIPTextModel")
    yield from models(PLAIN, "altclip_text:AltCLIPTextModel", options={"project_dim": 8})
    yield from models(PLAIN, "esmc:EsmcModel", options={"num_key_value_heads": 6}, coupling=_FULL_NORMS)
    yield from models(PLAIN, "luke:LukeModel", options={"entity_vocab_size": 7, "entity_emb_size": 6})
    yield from models(PLAIN, "markuplm:MarkupLMModel", options={"max_depth": 3, "xpath_unit_hidden_size": 2})
    yield from models(
        PLAIN,
        "layoutlmv3:LayoutLMv3Model",
        options={
            "coordinate_size": 4,
            "shape_size": 4,
            "visual_embed": False,
            "has_relative_attention_bias": True,
            "has_spatial_attention_bias": True,
        },
    )
    spectrum = {"num_mel_bins": 16, "max_length": 16, "patch_size": 4, "frequency_stride": 4, "time_stride": 4}
    yield from models(PLAIN, "audio_spectrogram_transformer:ASTModel", options=spectrum, inputs="spectrogram")
    yield from models(PLAIN, "clip_text:CLIPTextModel visual_bert:VisualBertModel")
    yield from models(
        PLAIN,
        "deberta_v2:DebertaV2Model",
        options={"relative_attention": True, "pos_att_type": ["c2p"], "share_att_key": False},
    )
    yield from models(PLAIN, "nomic_bert:NomicBertForMaskedLM jina_embeddings_v3:JinaEmbeddingsV3ForMaskedLM")
    yield from models(PLAIN, "big_bird:BigBirdForMaskedLM", options={"attention_type": "original_full"})
    yield from models(PLAIN, "layoutlm:LayoutLMForMaskedLM", options={"max_2d_position_embeddings": 8})
    yield from models(PLAIN, "xmod:XmodForMaskedLM", options={"default_language": "en_XX"})
    yield from models(PLAIN, "tapas:TapasModel", options={"type_vocab_sizes": [2] * 7})
    yield from models(
        PLAIN,
        "roc_bert:RoCBertForMaskedLM",
        options={"pronunciation_vocab_size": 5, "shape_vocab_size": 5, "concat_input": False},
    )
    wave = {
        "conv_dim": (8, 8),
        "conv_stride": (4, 4),
        "conv_kernel": (4, 4),
        "num_conv_pos_embeddings": 4,
        "num_conv_pos_embedding_groups": 2,
        "num_feat_extract_layers": 2,
    }
    yield from models(
        PLAIN, "hubert:HubertModel wav2vec2:Wav2Vec2Model unispeech:UniSpeechModel", inputs="wave", options=wave
    )
    yield from models(
        PLAIN,
        "sew:SEWModel unispeech_sat:UniSpeechSatModel",
        inputs="wave",
        options=wave | {"squeeze_factor": 1},
    )
    yield from models(
        PLAIN, "data2vec_audio:Data2VecAudioModel", inputs="wave", options=wave | {"conv_pos_kernel_size": 3}
    )
    towers = {
        "d_model": 24,
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 6,
        "decoder_attention_heads": 6,
        "encoder_ffn_dim": 7,
        "decoder_ffn_dim": 7,
    }
    yield from models(
        {},
        "bart:BartModel mbart:MBartModel plbart:PLBartModel blenderbot:BlenderbotModel "
        "blenderbot_small:BlenderbotSmallModel m2m_100:M2M100Model marian:MarianModel mvp:MvpModel "
        "nllb_moe:NllbMoeModel pegasus:PegasusModel",
        options=towers,
        part="encoder",
        expected=PLAIN,
    )
    yield from models(
        {},
        "t5:T5EncoderModel mt5:MT5EncoderModel umt5:UMT5EncoderModel "
        "switch_transformers:SwitchTransformersEncoderModel",
        options=MOE
        | {"d_model": 30, "num_heads": 6, "d_kv": 4, "num_layers": 2, "d_ff": 7, "num_sparse_encoder_layers": 0},
        expected=FREE | {"num_key_value_heads": 6},
    )
    yield Architecture(
        "whisper",
        "WhisperModel",
        options=towers | {"num_mel_bins": 8, "max_source_positions": 6},
        inputs="mel",
        part="encoder",
        expected=PLAIN,
    )
    yield from models(
        PLAIN, "imagegpt:ImageGPTModel", packing="concatenated", options={"n_positions": 32, "n_inner": 7}
    )


def families():
    """Entries of all families."""
    for group in (
        _split_language_models,
        _parts_of_multimodal_models,
        _hybrid_language_models,
        _fused_language_models,
        functools.partial(latent_models, MOE),
        _encoders,
    ):
        yield from group()
