"""The attention classes of transformers whose heads can be placed, and those whose heads cannot, with the reason.

Data, by exact class: a subclass may store its weights differently. Every entry of :data:`FINDERS` is proved on a model
of its family by the experiment of ``tests/layout_proof.py``, see ``validation/architectures.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from .errors import LayoutError
from .geometry import AttentionLayout
from .latent_attention import latent_layout
from .linear import described, qualified_name
from .packings import blocked_layout, concatenated_layout, grouped_layout, interleaved_layout, split_layout

Finder = Callable[[nn.Module, str, Any], AttentionLayout]

NO_CROSS = "Cross-attention reads two inputs and is not supported: pass a model, or a part of it, without it."


def _encoder_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """BERT and its relatives: the output projection lies beside the module that states the head count."""
    inner, expected = module.get_submodule("self"), qualified_name(type(module)).removesuffix("Attention")
    if qualified_name(type(inner)) != f"{expected}SelfAttention":
        raise LayoutError(
            f"{described(f'{name}.self', inner)}: expected {expected}SelfAttention. Sparse attention is computed in "
            f"another way. {NO_CROSS}"
        )
    return split_layout(
        module,
        name,
        config,
        query="self.query",
        key="self.key",
        value="self.value",
        output="output.dense",
        stated_by="self",
    )


def _falcon_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """Three packings under one class; the configuration states a number of kv heads that two of them ignore."""
    heads = module.num_heads
    if module.new_decoder_architecture:
        return grouped_layout(module, name, config, num_heads=heads, num_kv_heads=module.num_kv_heads)
    if module.multi_query:
        names = {"fused": "query_key_value", "output": "dense"}
        return concatenated_layout(module, name, config, **names, num_heads=heads, num_kv_heads=1)
    return interleaved_layout(module, name, config, num_heads=heads)


def _gpt_bigcode_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """Concatenated around a single kv head, or else interleaved by head."""
    names = {"fused": "c_attn", "output": "c_proj", "num_heads": module.num_heads}
    if module.multi_query:
        return concatenated_layout(module, name, config, **names, num_kv_heads=1)
    return interleaved_layout(module, name, config, **names)


def _openai_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """As many kv heads as heads, which nobody states."""
    return concatenated_layout(module, name, config, fused="c_attn", output="c_proj", num_kv_heads=module.n_head)


def _blip_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """As many kv heads as heads, which nobody states."""
    return concatenated_layout(module, name, config, fused="qkv", output="projection", num_kv_heads=module.num_heads)


def _encoder_decoder_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """BART and its relatives: the configuration names the heads of the encoder, and a decoder may have others."""
    heads = module.num_heads
    return split_layout(module, name, config, output="out_proj", num_heads=heads, num_kv_heads=heads)


def _mimo_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """Sliding layers have twice the kv heads that the configuration states; values are narrower than keys."""
    heads = config.num_attention_heads
    return split_layout(module, name, config, num_heads=heads, num_kv_heads=heads // module.num_key_value_groups)


def _dots_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """Sliding layers have sizes of their own, which the configuration keeps by layer."""
    return latent_layout(module, name, config and config.per_layer_config[module.layer_idx])


def _mistral_large_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """Layers without rotary positions have wider keys of their own, and some read the latent of an earlier layer."""
    down = None if module.kv_a_proj_with_mqa is None else "kv_a_proj_with_mqa"
    return latent_layout(module, name, None, latent=down)


def _by_class(finder: Finder, names: str) -> dict[str, Finder]:
    return {_qualified(name): finder for name in names.split()}


def _qualified(short: str) -> str:
    """Spell out ``package.Class`` or ``package.module.Class``."""
    package, *module, name = short.split(".")
    return f"transformers.models.{package}.{module[0] if module else f'modeling_{package}'}.{name}"


_LM_SPLIT = """
    afmoe.AfmoeAttention apertus.ApertusAttention arcee.ArceeAttention aria.AriaTextAttention bamba.BambaAttention
    bitnet.BitNetAttention cohere.CohereAttention cohere2.Cohere2Attention cohere2_moe.Cohere2MoeAttention
    cohere_compass.CohereCompassAttention cwm.CwmAttention dots1.Dots1Attention emu3.Emu3Attention
    ernie4_5.Ernie4_5Attention ernie4_5_moe.Ernie4_5_MoeAttention exaone4.Exaone4Attention
    exaone_moe.ExaoneMoeAttention falcon_h1.FalconH1Attention flex_olmo.FlexOlmoAttention flint.FlintAttention
    gemma.GemmaAttention gemma2.Gemma2Attention gemma3.Gemma3Attention glm.GlmAttention glm4.Glm4Attention
    glm4_moe.Glm4MoeAttention glm4v.Glm4vTextAttention glm4v_moe.Glm4vMoeTextAttention glm_ocr.GlmOcrTextAttention
    gpt_oss.GptOssAttention granite.GraniteAttention granite_swa.GraniteSWAAttention granitemoe.GraniteMoeAttention
    granitemoe_swa.GraniteMoeSWAAttention granitemoehybrid.GraniteMoeHybridAttention
    granitemoeshared.GraniteMoeSharedAttention helium.HeliumAttention higgs_audio_v2.HiggsAudioV2Attention
    hunyuan_v1_dense.HunYuanDenseV1Attention hunyuan_v1_moe.HunYuanMoEV1Attention hy_v3.HYV3Attention
    hyperclovax.HyperCLOVAXAttention jais2.Jais2Attention jamba.JambaAttention kolibri1.Kolibri1Attention
    laguna.LagunaAttention lfm3.Lfm3Attention llama.LlamaAttention llama4.Llama4TextAttention mellum.MellumAttention
    minimax.MiniMaxAttention minimax_m2.MiniMaxM2Attention ministral.MinistralAttention ministral3.Ministral3Attention
    mistral.MistralAttention mixtral.MixtralAttention mllama.MllamaTextSelfAttention nanochat.NanoChatAttention
    nemotron.NemotronAttention nemotron_h.NemotronHAttention olmo.OlmoAttention olmo2.Olmo2Attention
    olmo3.Olmo3Attention olmo_hybrid.OlmoHybridAttention olmoe.OlmoeAttention phimoe.PhimoeAttention
    qwen2.Qwen2Attention qwen2_5_omni.Qwen2_5OmniAttention qwen2_5_vl.Qwen2_5_VLAttention qwen2_moe.Qwen2MoeAttention
    qwen2_vl.Qwen2VLAttention qwen3.Qwen3Attention qwen3_moe.Qwen3MoeAttention
    qwen3_omni_moe.Qwen3OmniMoeThinkerTextAttention qwen3_vl.Qwen3VLTextAttention qwen3_vl_moe.Qwen3VLMoeTextAttention
    recurrent_gemma.RecurrentGemmaAttention seed_oss.SeedOssAttention smollm3.SmolLM3Attention
    solar_open.SolarOpenAttention stablelm.StableLmAttention starcoder2.Starcoder2Attention
    vaultgemma.VaultGemmaAttention
"""
_ENCODER_SPLIT = """
    audio_spectrogram_transformer.ASTAttention beit.BeitAttention deit.DeiTAttention dinov2.Dinov2Attention
    dinov2_with_registers.Dinov2WithRegistersAttention dinov3_vit.DINOv3ViTAttention esmc.EsmcAttention
    eurobert.EuroBertAttention gte.GteAttention ijepa.IJepaAttention jina_embeddings_v3.JinaEmbeddingsV3Attention
    nomic_bert.NomicBertAttention pixtral.PixtralAttention vit.ViTAttention vit_mae.ViTMAEAttention
    vit_msn.ViTMSNAttention vivit.VivitAttention
"""
_OUT_PROJ = """
    aimv2.Aimv2Attention altclip.AltCLIPAttention biogpt.BioGptAttention chinese_clip.ChineseCLIPVisionAttention
    clip.CLIPAttention clipseg.CLIPSegAttention data2vec.modeling_data2vec_audio.Data2VecAudioAttention
    gpt_neo.GPTNeoSelfAttention gptj.GPTJAttention groupvit.GroupViTAttention hubert.HubertAttention
    lfm2.Lfm2Attention lfm2_moe.Lfm2MoeAttention metaclip_2.MetaClip2Attention mlcd.MLCDAttention opt.OPTAttention
    owlv2.Owlv2Attention owlvit.OwlViTAttention sew.SEWAttention siglip.SiglipAttention unispeech.UniSpeechAttention
    unispeech_sat.UniSpeechSatAttention wav2vec2.Wav2Vec2Attention
"""
_ENCODER_DECODER = """
    bart.BartAttention blenderbot.BlenderbotAttention blenderbot_small.BlenderbotSmallAttention
    m2m_100.M2M100Attention marian.MarianAttention mbart.MBartAttention mvp.MvpAttention nllb_moe.NllbMoeAttention
    pegasus.PegasusAttention plbart.PLBartAttention whisper.WhisperAttention
"""
_BERT_LIKE = """
    altclip.AltRobertaAttention bert.BertAttention bert_generation.BertGenerationAttention big_bird.BigBirdAttention
    camembert.CamembertAttention chinese_clip.ChineseCLIPTextAttention
    data2vec.modeling_data2vec_text.Data2VecTextAttention electra.ElectraAttention ernie.ErnieAttention
    esm.EsmAttention layoutlm.LayoutLMAttention layoutlmv3.LayoutLMv3Attention luke.LukeAttention
    markuplm.MarkupLMAttention megatron_bert.MegatronBertAttention rembert.RemBertAttention roberta.RobertaAttention
    roberta_prelayernorm.RobertaPreLayerNormAttention roc_bert.RoCBertAttention roformer.RoFormerAttention
    splinter.SplinterAttention tapas.TapasAttention visual_bert.VisualBertAttention xlm_roberta.XLMRobertaAttention
    xlm_roberta_xl.XLMRobertaXLAttention xmod.XmodAttention
"""
_LATENT = """
    axk1.AXK1Attention bailing_hybrid.BailingHybridAttention deepseek_v2.DeepseekV2Attention
    deepseek_v3.DeepseekV3Attention deepseek_v32.DeepseekV32Attention glm4_moe_lite.Glm4MoeLiteAttention
    glm5_next.Glm5NextTextAttention glm_moe_dsa.GlmMoeDsaAttention hy_v4.HYV4Attention
    kimi_linear.KimiLinearAttention longcat_flash.LongcatFlashMLA minicpm3.MiniCPM3Attention
    mistral4.Mistral4Attention youtu.YoutuAttention
"""
_LIN = {"query": "q_lin", "key": "k_lin", "value": "v_lin", "output": "out_lin"}

FINDERS: dict[str, Finder] = {
    **_by_class(split_layout, _LM_SPLIT + _ENCODER_SPLIT),
    **_by_class(_encoder_decoder_layout, _ENCODER_DECODER),
    **_by_class(_mimo_layout, "mimo_v2_flash.MiMoV2FlashAttention"),
    **_by_class(partial(split_layout, output="out_proj"), _OUT_PROJ),
    **_by_class(_encoder_layout, _BERT_LIKE),
    **_by_class(partial(split_layout, output="dense"), "phi.PhiAttention"),
    **_by_class(partial(split_layout, output="projection_layer"), "internvl.InternVLVisionAttention"),
    # T5 keeps the parts of a layer in a list of their own.
    **_by_class(
        partial(split_layout, query="q", key="k", value="v", output="o"),
        "mt5.MT5Attention switch_transformers.SwitchTransformersAttention t5.T5Attention umt5.UMT5Attention",
    ),
    **_by_class(
        partial(
            split_layout,
            query="self.query_proj",
            key="self.key_proj",
            value="self.value_proj",
            output="output.dense",
            stated_by="self",
        ),
        "deberta_v2.DebertaV2Attention",
    ),
    **_by_class(partial(split_layout, output="Wo"), "modernbert_decoder.ModernBertDecoderAttention"),
    **_by_class(partial(split_layout, query="Wq", key="Wk", value="Wv", output="dense"), "ctrl.MultiHeadAttention"),
    **_by_class(
        partial(split_layout, **_LIN),
        "distilbert.DistilBertSelfAttention flaubert.MultiHeadAttention xlm.MultiHeadAttention",
    ),
    **_by_class(
        partial(split_layout, query="attn.q", key="attn.k", value="attn.v", output="attn.o", stated_by="attn"),
        "mpnet.MPNetAttention",
    ),
    **_by_class(
        partial(
            split_layout,
            query="attention.query",
            key="attention.key",
            value="attention.value",
            output="output.dense",
            stated_by="attention",
        ),
        "data2vec.modeling_data2vec_vision.Data2VecVisionAttention videomae.VideoMAEAttention yolos.YolosAttention",
    ),
    **_by_class(
        partial(split_layout, gate_rows=True),
        "qwen3_next.Qwen3NextAttention qwen3_5.Qwen3_5Attention qwen3_5_moe.Qwen3_5MoeAttention",
    ),
    **_by_class(latent_layout, _LATENT),
    **_by_class(partial(latent_layout, query="q_gate_proj", gate_rows=True), "axk2.AXK2Attention"),
    **_by_class(_dots_layout, "dots3_note.Dots3NoteTextAttention"),
    **_by_class(_mistral_large_layout, "mistral_large4.MistralLarge4TextAttention"),
    **_by_class(concatenated_layout, "phi3.Phi3Attention"),
    **_by_class(
        partial(concatenated_layout, fused="c_attn", output="c_proj"), "gpt2.GPT2Attention imagegpt.ImageGPTAttention"
    ),
    **_by_class(_blip_layout, "blip.BlipAttention"),
    **_by_class(_openai_layout, "openai.Attention"),
    **_by_class(partial(concatenated_layout, fused="Wqkv", output="out_proj"), "mpt.MptAttention dbrx.DbrxAttention"),
    **_by_class(partial(concatenated_layout, fused="Wqkv", output="Wo"), "modernbert.ModernBertAttention"),
    **_by_class(
        interleaved_layout,
        "bloom.BloomAttention gpt_neox.GPTNeoXAttention gpt_neox_japanese.GPTNeoXJapaneseAttention "
        "persimmon.PersimmonAttention",
    ),
    **_by_class(_gpt_bigcode_layout, "gpt_bigcode.GPTBigCodeAttention"),
    **_by_class(_falcon_layout, "falcon.FalconAttention"),
    # Four blocks, as the model was trained; the number is written into its forward.
    **_by_class(partial(blocked_layout, blocks=4), "codegen.CodeGenAttention"),
}
"""How to place the heads of each class."""

_REUSED = "layers may take the keys and values of an earlier layer, and then have none of their own"
_SEVERAL_RUNS = "the same weights serve several layers or run several times, so a gradient belongs to no single layer"

REASONS: dict[str, str] = {
    _qualified(name): reason
    for reason, names in (
        (
            "all heads read one key, which is their value too, and groups of heads share a second output projection",
            "deepseek_v4.DeepseekV4Attention",
        ),
        (_REUSED, "gemma3n.Gemma3nTextAttention gemma4.Gemma4TextAttention"),
        (_SEVERAL_RUNS, "albert.AlbertAttention hrm_text.HrmTextAttention zamba.ZambaAttention zamba2.Zamba2Attention"),
        ("two query heads are subtracted from each other and share a value", "diffllama.DiffLlamaAttention"),
        ("its values also decide which positions all heads attend to", "doge.DogeAttention"),
        (
            "a convolution is mixed into its heads",
            "convbert.ConvBertAttention inkling.InklingAttention zaya.ZayaAttention",
        ),
        ("every expert has query and output projections of its own", "jetmoe.JetMoeAttention"),
        ("it computes a recurrence and no attention probabilities", "rwkv.RwkvSelfAttention"),
        ("its projections are three-dimensional parameters without a layer", "xlnet.XLNetRelativeAttention"),
        (
            "global tokens have a second set of query, key and value projections",
            "led.LEDEncoderAttention longformer.LongformerAttention",
        ),
        ("its integer arithmetic has no gradient", "ibert.IBertAttention"),
        (
            "the biases of its fused projection are parameters of the attention, and its queries and keys also meet "
            "positions",
            "deberta.DebertaAttention",
        ),
        ("its projections are handed to one function and never called as layers", "wavlm.WavLMAttention"),
        ("queries and keys read a narrower input than values", "mobilebert.MobileBertAttention"),
    )
    for name in names.split()
}
"""Why the heads of a class cannot be placed."""

WITHOUT_HEADS = frozenset(
    _qualified(name)
    for name in (
        "bailing_hybrid.BailingHybridDeltaAttention",
        "glm5_next.Glm5NextTextLinearAttention",
        "kimi_linear.KimiLinearDeltaAttention",
        "minimax.MiniMaxLightningAttention",
        "olmo_hybrid.OlmoHybridLinearAttentionDecoderLayer",
    )
)
"""Linear attention by name: passed over, as state space layers are, where other layers have attention."""
