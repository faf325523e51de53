"""Model families of transformers as data: tiny random instances whose heads are found, and families that are refused.

Each is built without any file or network, in float64, eager attention, eval mode, weights from
:func:`validation.synthetic.draw_weights`. Hidden size, heads, kv heads and head_dim are all different where the family
allows it. The families that everything else is validated on are in :mod:`validation.families`; these are here to show
that their layout is what they compute.
"""

import functools
from dataclasses import dataclass, field

import torch
import transformers

from .synthetic import draw_weights

VOCAB_SIZE = 13
TOKENS = (3, 7, 4, 9, 12, 5)

# Where the family allows it, head_dim is not hidden_size / heads; else heads may share kv heads; else not.
FREE = {"hidden_size": 30, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4}
GROUPED = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2}
PLAIN = {"hidden_size": 24, "num_attention_heads": 6}
ONE = {"num_key_value_heads": 1}
EIGHT = {"hidden_size": 40, "num_attention_heads": 8}

_SHARED = {
    "vocab_size": VOCAB_SIZE,
    "intermediate_size": 7,
    "num_hidden_layers": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_MOE = {
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
# Inputs other than token ids: the keyword and the shape of one sample.
_SHAPES = {
    "pixels": ("pixel_values", (1, 3, 8, 8)),
    "wave": ("input_values", (1, 200)),
    "mel": ("input_features", (1, 8, 12)),
    "embeds": ("inputs_embeds", (1, 6, 24)),
}


@dataclass(frozen=True)
class Architecture:
    """One family.

    Attributes:
        name: Key in :data:`ARCHITECTURES` or :data:`REFUSED`.
        model_class: Name in transformers.
        packing: What the layout must say.
        sizes: Hidden size and heads, as the configuration calls them.
        options: The rest of the configuration; None leaves out what all share.
        inputs: ``"ids"`` or a key of ``_SHAPES``.
        layers: Indices of the layers with attention.
        part: Path of the part of the model that is looked at, such as one of two towers.
        coupling: Names of norms inside the attention that make heads depend on each other or give an absent query a
            direction; for the experiment on the layout they are taken out.
        gated: Whether the query projection also holds rows of a gate, which belong to no block; for the experiment
            no gradient passes through the gate.
        expected: What the layout must say where it is not ``sizes``: tuples where layers differ.
    """

    name: str
    model_class: str
    packing: str = "split"
    sizes: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    inputs: str = "ids"
    layers: tuple[int, ...] = (0, 1)
    part: str = ""
    coupling: tuple[str, ...] = ()
    gated: bool = False
    expected: dict = field(default_factory=dict)

    @property
    def heads(self):
        """Heads, kv heads, width of keys, width of values and hidden size that the layout must state."""
        stated = self.sizes | self.expected
        heads, hidden = stated["num_attention_heads"], stated["hidden_size"]
        width = stated.get("head_dim", hidden // heads)
        kv_heads = stated.get("num_key_value_heads", heads)
        return heads, kv_heads, width, stated.get("v_head_dim", width), hidden

    @property
    def is_causal_lm(self):
        """Whether the model predicts the next token, so that the default loss applies."""
        names = ("ForCausalLM", "LMHeadModel")
        return self.model_class.endswith(names) and not self.part


def build(architecture):
    """Build the tiny model of a family.

    Returns:
        ``(model, inputs)``: a new model in eval mode, equal to the last, and one sample as keyword arguments.
    """
    model_class = getattr(transformers, architecture.model_class)
    stated = _SHARED | architecture.sizes | architecture.options
    config = model_class.config_class(**{name: value for name, value in stated.items() if value is not None})
    config._attn_implementation = "eager"
    model = draw_weights(model_class(config).double(), seed=3).eval().requires_grad_(True)
    return (model.get_submodule(architecture.part) if architecture.part else model), _inputs(architecture.inputs)


def decouple(model, architecture):
    """Take out what lets a head move weights of no block or of another head, in place: coupling norms and gates."""
    for name in [name for name, _ in model.named_modules() if name.rpartition(".")[2] in architecture.coupling]:
        model.set_submodule(name, torch.nn.Identity())
    if architecture.gated:
        heads = architecture.sizes["num_attention_heads"]
        for name, module in model.named_modules():
            if name.endswith("self_attn.q_proj"):
                module.register_forward_hook(functools.partial(_hold_gate, heads))
    return model


def _hold_gate(heads, module, args, output):
    query, gate = output.unflatten(-1, (heads, 2, -1)).unbind(-2)
    return torch.stack([query, gate.detach()], -2).flatten(-3)


def _inputs(kind):
    if kind == "ids":
        return {"input_ids": torch.tensor([TOKENS])}
    generator = torch.Generator().manual_seed(6)
    name, shape = _SHAPES[kind]
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64)}


def _causal(sizes, prefixes, **rest):
    """Entries of causal language models that need nothing more, by ``name:Prefix``."""
    for pair in prefixes.split():
        name, prefix = pair.split(":")
        yield Architecture(name, f"{prefix}ForCausalLM", sizes=sizes, **rest)


def _entries(sizes, pairs, **rest):
    for pair in pairs.split():
        name, model_class = pair.split(":")
        yield Architecture(name, model_class, sizes=sizes, **rest)


_FULL_NORMS = ("q_norm", "k_norm")


def _split_language_models():
    yield from _causal(
        FREE,
        "arcee:Arcee cohere2:Cohere2 cwm:Cwm ernie4_5:Ernie4_5 flint:Flint gemma:Gemma gemma2:Gemma2 gemma3:Gemma3 "
        "glm:Glm glm4:Glm4 hunyuan_v1_dense:HunYuanDenseV1 hyperclovax:HyperCLOVAX jais2:Jais2 llama:Llama "
        "ministral:Ministral ministral3:Ministral3 mistral:Mistral nemotron:Nemotron qwen3:Qwen3 seed_oss:SeedOss "
        "vaultgemma:VaultGemma",
    )
    yield from _causal(
        FREE,
        "afmoe:Afmoe aria_text:AriaText cohere2_moe:Cohere2Moe gpt_oss:GptOss hunyuan_v1_moe:HunYuanMoEV1 hy_v3:HYV3 "
        "kolibri1:Kolibri1 laguna:Laguna llama4:Llama4 mellum:Mellum mixtral:Mixtral qwen3_moe:Qwen3Moe "
        "solar_open:SolarOpen",
        options=_MOE,
    )
    yield from _causal(
        GROUPED,
        "apertus:Apertus cohere:Cohere exaone4:Exaone4 granite:Granite granite_swa:GraniteSWA "
        "nanochat:NanoChat olmo:Olmo qwen2:Qwen2 smollm3:SmolLM3 stablelm:StableLm starcoder2:Starcoder2 phi:Phi",
    )
    yield from _causal(
        GROUPED,
        "dots1:Dots1 ernie4_5_moe:Ernie4_5_Moe exaone_moe:ExaoneMoe glm4_moe:Glm4Moe granitemoe:GraniteMoe "
        "granitemoe_swa:GraniteMoeSWA granitemoeshared:GraniteMoeShared phimoe:Phimoe qwen2_moe:Qwen2Moe",
        options=_MOE,
    )
    yield from _causal(GROUPED, "olmo2:Olmo2 olmo3:Olmo3", coupling=_FULL_NORMS)
    yield from _causal(GROUPED, "olmoe:Olmoe flex_olmo:FlexOlmo", coupling=_FULL_NORMS, options=_MOE)
    yield from _causal(FREE, "minimax_m2:MiniMaxM2", coupling=_FULL_NORMS, options=_MOE)
    yield from _causal(GROUPED | {"head_dim": 4}, "helium:Helium")
    yield from _causal(
        FREE | {"num_key_value_heads": 1, "v_head_dim": 6},
        "mimo_v2_flash:MiMoV2Flash",
        expected={"num_key_value_heads": (1, 2)},
        options=_MOE | {"layer_types": ["full_attention", "sliding_attention"]},
    )
    yield from _causal(GROUPED, "bitnet:BitNet", coupling=("attn_sub_norm",))
    yield from _causal(PLAIN, "biogpt:BioGpt gptj:GPTJ", options={"rotary_dim": 2, "n_inner": 7})
    yield from _causal(PLAIN, "modernbert_decoder:ModernBertDecoder")
    yield from _causal(PLAIN, "opt:OPT", options={"ffn_dim": 7, "word_embed_proj_dim": 24})
    yield from _causal(
        PLAIN, "gpt_neo:GPTNeo", options={"attention_types": [[["global", "local"], 1]], "window_size": 4}
    )
    yield Architecture("ctrl", "CTRLLMHeadModel", sizes=PLAIN, options={"dff": 7})


def _hybrid_language_models():
    delta = {
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 4,
        "linear_value_head_dim": 4,
    }
    for pair, options in (
        ("qwen3_next:Qwen3Next", _MOE | delta),
        ("qwen3_5:Qwen3_5", delta),
        ("qwen3_5_moe:Qwen3_5Moe", _MOE | delta),
    ):
        yield from _causal(FREE | {"head_dim": 8}, pair, layers=(1,), gated=True, options=options)
    yield from _causal(
        GROUPED,
        "jamba:Jamba",
        layers=(1,),
        options=_MOE | {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False, "mamba_d_state": 3},
    )
    mamba = {"mamba_n_heads": 4, "mamba_d_head": 12, "mamba_n_groups": 1, "mamba_d_state": 3, "mamba_expand": 2}
    yield from _causal(GROUPED, "bamba:Bamba", layers=(1,), options=mamba | {"attn_layer_indices": [1]})
    yield from _causal(
        GROUPED,
        "granitemoehybrid:GraniteMoeHybrid",
        layers=(1,),
        options=_MOE | mamba | {"layer_types": ["mamba", "attention"], "shared_intermediate_size": 7},
    )
    yield from _causal(GROUPED, "falcon_h1:FalconH1", options=mamba | {"mamba_d_ssm": 48})
    yield from _causal(GROUPED, "lfm2:Lfm2", layers=(1,), options={"layer_types": ["conv", "full_attention"]})
    yield from _causal(
        GROUPED, "lfm2_moe:Lfm2Moe", layers=(1,), options=_MOE | {"layer_types": ["conv", "full_attention"]}
    )
    yield from _causal(
        GROUPED,
        "olmo_hybrid:OlmoHybrid",
        layers=(1,),
        coupling=_FULL_NORMS,
        options=delta,
    )
    yield from _causal(
        FREE,
        "recurrent_gemma:RecurrentGemma",
        layers=(1,),
        options={"block_types": ["recurrent", "attention"], "lru_width": 24},
    )
    yield from _causal(
        FREE,
        "nemotron_h:NemotronH",
        layers=(1,),
        options={"layers_block_type": ["mlp", "full_attention", "mlp"], "num_hidden_layers": 3},
    )
    yield from _causal(
        FREE, "minimax:MiniMax", layers=(0,), options=_MOE | {"layer_types": ["full_attention", "linear_attention"]}
    )


def _fused_language_models():
    yield from _causal(GROUPED, "phi3:Phi3", packing="concatenated")
    yield from _causal(PLAIN, "mpt:Mpt", packing="concatenated", options={"max_seq_len": 32})
    yield from _entries(PLAIN, "gpt2:GPT2LMHeadModel openai:OpenAIGPTLMHeadModel", packing="concatenated")
    yield from _causal(
        {},
        "dbrx:Dbrx",
        packing="concatenated",
        expected=GROUPED,
        options=_MOE
        | {
            "d_model": 24,
            "n_heads": 6,
            "n_layers": 2,
            "max_seq_len": 32,
            "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
            "ffn_config": {"ffn_hidden_size": 7, "hidden_size": 24, "moe_num_experts": 2, "moe_top_k": 1},
        },
    )
    yield from _causal(
        PLAIN, "gpt_bigcode:GPTBigCode", packing="concatenated", expected=ONE, options={"multi_query": True}
    )
    yield Architecture("gpt_bigcode-heads", "GPTBigCodeForCausalLM", "interleaved", PLAIN, {"multi_query": False})
    yield from _causal(EIGHT, "codegen:CodeGen", packing="concatenated", options={"rotary_dim": 2, "n_inner": 7})
    yield from _causal(PLAIN, "bloom:Bloom gpt_neox:GPTNeoX gpt_neox_japanese:GPTNeoXJapanese", packing="interleaved")
    yield from _causal(PLAIN, "persimmon:Persimmon", packing="interleaved", coupling=("q_layernorm", "k_layernorm"))
    old = {"new_decoder_architecture": False, "bias": True, "alibi": False}
    yield Architecture("falcon", "FalconForCausalLM", "concatenated", PLAIN, old | {"multi_query": True}, expected=ONE)
    yield Architecture("falcon-heads", "FalconForCausalLM", "interleaved", PLAIN, old | {"multi_query": False})
    yield Architecture(
        "falcon-groups",
        "FalconForCausalLM",
        "interleaved",
        PLAIN,
        {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True},
        expected={"num_key_value_heads": 2},
    )


def _encoders():
    yield from _entries(
        PLAIN,
        "bert:BertForMaskedLM camembert:CamembertForMaskedLM data2vec_text:Data2VecTextForMaskedLM "
        "electra:ElectraForMaskedLM ernie:ErnieForMaskedLM esm:EsmForMaskedLM megatron_bert:MegatronBertForMaskedLM "
        "rembert:RemBertForMaskedLM roberta:RobertaForMaskedLM "
        "roberta_prelayernorm:RobertaPreLayerNormForMaskedLM roformer:RoFormerForMaskedLM "
        "xlm_roberta:XLMRobertaForMaskedLM xlm_roberta_xl:XLMRobertaXLForMaskedLM "
        "distilbert:DistilBertForMaskedLM mpnet:MPNetForMaskedLM gte:GteForMaskedLM splinter:SplinterModel",
        options={"embedding_size": 24, "input_embedding_size": 24, "output_embedding_size": 24, "hidden_dim": 7},
    )
    yield from _entries(PLAIN, "bert_generation:BertGenerationEncoder bert-lm:BertLMHeadModel")
    yield from _entries(FREE, "eurobert:EuroBertForMaskedLM")
    yield from _entries(PLAIN, "modernbert:ModernBertForMaskedLM", packing="concatenated")
    yield from _entries(PLAIN, "xlm:XLMModel flaubert:FlaubertModel", options={"n_langs": 1, "emb_dim": 24})
    yield from _entries(
        PLAIN,
        "vit:ViTModel deit:DeiTModel dinov2:Dinov2Model dinov2_with_registers:Dinov2WithRegistersModel "
        "dinov3_vit:DINOv3ViTModel beit:BeitModel ijepa:IJepaModel vit_msn:ViTMSNModel "
        "data2vec_vision:Data2VecVisionModel clip_vision:CLIPVisionModel mlcd:MLCDVisionModel",
        options=_IMAGE,
        inputs="pixels",
    )
    yield from _entries(
        PLAIN,
        "siglip:SiglipVisionModel aimv2:Aimv2VisionModel",
        options=_IMAGE,
        inputs="embeds",
        part="encoder",
    )
    yield from _entries(PLAIN, "vit_mae:ViTMAEModel", inputs="pixels", options=_IMAGE | {"mask_ratio": 0.0})
    yield from _entries(PLAIN, "clip_text:CLIPTextModel")
    yield from _entries(PLAIN, "nomic_bert:NomicBertForMaskedLM jina_embeddings_v3:JinaEmbeddingsV3ForMaskedLM")
    yield from _entries(PLAIN, "big_bird:BigBirdForMaskedLM", options={"attention_type": "original_full"})
    yield from _entries(PLAIN, "layoutlm:LayoutLMForMaskedLM", options={"max_2d_position_embeddings": 8})
    yield from _entries(PLAIN, "xmod:XmodForMaskedLM", options={"default_language": "en_XX"})
    yield from _entries(PLAIN, "tapas:TapasModel", options={"type_vocab_sizes": [2] * 7})
    yield from _entries(
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
    yield from _entries(
        PLAIN, "hubert:HubertModel wav2vec2:Wav2Vec2Model unispeech:UniSpeechModel", inputs="wave", options=wave
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
    yield from _entries(
        {}, "bart:BartModel mbart:MBartModel plbart:PLBartModel", options=towers, part="encoder", expected=PLAIN
    )
    yield Architecture(
        "whisper",
        "WhisperModel",
        options=towers | {"num_mel_bins": 8, "max_source_positions": 6},
        inputs="mel",
        part="encoder",
        expected=PLAIN,
    )
    yield from _entries(
        PLAIN, "imagegpt:ImageGPTModel", packing="concatenated", options={"n_positions": 32, "n_inner": 7}
    )


ARCHITECTURES = {
    one.name: one
    for group in (_split_language_models, _hybrid_language_models, _fused_language_models, _encoders)
    for one in group()
}
"""Families whose heads are found, by name."""


_LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4}
_MULTI = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 6}


def _refused():
    """Pairs of an architecture and words of the reason."""
    latent = (
        "deepseek_v2:DeepseekV2 deepseek_v3:DeepseekV3 minicpm3:MiniCPM3 youtu:Youtu glm4_moe_lite:Glm4MoeLite "
        "longcat_flash:LongcatFlash"
    )
    for one in _causal(_MULTI, latent, options=_MOE | _LATENT):
        yield one, "a latent that all heads share"
    few = {"vocab_size_per_layer_input": VOCAB_SIZE, "hidden_size_per_layer_input": 3}
    for pair, options, reason in (
        ("albert:AlbertModel", {"embedding_size": 24}, "several layers"),
        ("zamba:ZambaModel", {"num_hidden_layers": 3, "layer_types": ["mamba", "hybrid", "hybrid"]}, "several layers"),
        ("hrm_text:HrmTextModel", {"head_dim": 4}, "several times"),
        ("diffllama:DiffLlamaForCausalLM", {}, "two query heads are subtracted"),
        ("doge:DogeForCausalLM", {}, "its values also decide"),
        ("convbert:ConvBertModel", {}, "a convolution"),
        ("zaya:ZayaForCausalLM", _MOE, "a convolution"),
        ("jetmoe:JetMoeForCausalLM", _MOE, "every expert"),
        ("rwkv:RwkvModel", {}, "a recurrence"),
        (
            "xlnet:XLNetModel",
            {"d_inner": 7, "d_head": 4, "max_position_embeddings": None},
            "three-dimensional parameters",
        ),
        ("longformer:LongformerModel", {"attention_window": 4}, "a second set"),
        ("ibert:IBertModel", {}, "has no gradient"),
        ("deberta:DebertaModel", {}, "biases of its fused projection"),
        ("mobilebert:MobileBertModel", {}, "a narrower input"),
        ("gemma3n:Gemma3nForCausalLM", few | {"num_kv_shared_layers": 0}, "keys and values of an earlier layer"),
        ("gemma4:Gemma4ForCausalLM", few | {"num_kv_shared_layers": 0}, "keys and values of an earlier layer"),
        ("mamba:MambaForCausalLM", {}, "contains no known attention module"),
        ("falcon_mamba:FalconMambaForCausalLM", {}, "contains no known attention module"),
        ("big_bird:BigBirdModel", {"attention_type": "block_sparse"}, "expected"),
    ):
        yield next(_entries(PLAIN, pair, options=options)), reason


REFUSED = {one.name: (one, reason) for one, reason in _refused()}
"""Families whose heads cannot be placed, by name, with words of the reason that the error must state."""
