"""The attention classes of transformers that the general rule does not cover: how to place their heads, or why not.

Data, by exact class: a subclass may store its weights differently. Every entry of :data:`FINDERS` is proved on a model
of its family by the experiment of ``tests/layout_proof.py``, see ``validation/architectures.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from .general_rule import general_layout
from .geometry import AttentionLayout
from .latent_attention import latent_layout
from .packings import (
    blocked_layout,
    concatenated_layout,
    grouped_layout,
    interleaved_layout,
    query_apart_layout,
    split_layout,
)

Finder = Callable[[nn.Module, str, Any], AttentionLayout]


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


def _concatenated_evenly(
    module: nn.Module,
    name: str,
    config: Any,
    *,
    fused: str = "qkv",
    output: str = "proj",
    stated: str = "num_heads",
    stated_by: str = "",
) -> AttentionLayout:
    """As many kv heads as heads, and a module that alone knows them: stages of one model differ in their heads."""
    heads = getattr(module.get_submodule(stated_by), stated)
    return concatenated_layout(module, name, None, fused=fused, output=output, num_heads=heads, num_kv_heads=heads)


def _esmfold_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """Attention along rows or columns of pairs, beside a gate; it has a name of its own for everything."""
    names = {"query": "linear_q", "key": "linear_k", "value": "linear_v", "output": "linear_o"}
    return split_layout(module, name, config, **names, num_heads=module.no_heads, num_kv_heads=module.no_heads)


def _esmfold_sequence_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """Interleaved; the configuration states the heads of the language model in front."""
    return interleaved_layout(module, name, config, fused="proj", output="o_proj", num_heads=module.num_heads)


def _evolla_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """A few latents ask, protein and latents answer."""
    return query_apart_layout(module, name, config, num_heads=module.heads, num_kv_heads=module.heads)


def _gpt2_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """Self-attention fuses queries, keys and values; cross-attention fuses keys and values and takes queries apart."""
    names = {"fused": "c_attn", "output": "c_proj", "num_heads": module.num_heads}
    if module.is_cross_attention:
        return query_apart_layout(module, name, config, query="q_attn", **names)
    return concatenated_layout(module, name, config, **names)


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


_LATENT = """
    axk1.AXK1Attention bailing_hybrid.BailingHybridAttention deepseek_v2.DeepseekV2Attention
    deepseek_v3.DeepseekV3Attention deepseek_v32.DeepseekV32Attention glm4_moe_lite.Glm4MoeLiteAttention
    glm5_next.Glm5NextTextAttention glm_moe_dsa.GlmMoeDsaAttention hy_v4.HYV4Attention
    kimi_linear.KimiLinearAttention longcat_flash.LongcatFlashMLA minicpm3.MiniCPM3Attention
    mistral4.Mistral4Attention youtu.YoutuAttention
"""

FINDERS: dict[str, Finder] = {
    # The general rule, beside weights of no block: gates, biases and keys by distance, queries of another kind.
    **_by_class(
        general_layout,
        "afmoe.AfmoeAttention beam.BeamAttention chameleon.ChameleonAttention clap.ClapAudioAttention "
        "deberta_v2.DebertaV2Attention esmfold2.EsmFold2DiffusionAttention "
        "fastspeech2_conformer.FastSpeech2ConformerAttention granite_speech5.GraniteSpeech5EncoderAttention "
        "laguna.LagunaAttention lfm3.Lfm3Attention lilt.LiltAttention longt5.LongT5Attention "
        "longt5.LongT5LocalAttention luke.LukeAttention minimax_m3_vl.MiniMaxM3VLAttention mt5.MT5Attention "
        "muse_glimmer.MuseGlimmerTextAttention muse_spark.MuseSparkTextAttention "
        "nemotron_asr_streaming.NemotronAsrStreamingEncoderAttention parakeet.ParakeetEncoderAttention "
        "pix2struct.Pix2StructTextAttention pop2piano.Pop2PianoAttention "
        "seamless_m4t.SeamlessM4TConformerSelfAttention seamless_m4t_v2.SeamlessM4Tv2ConformerSelfAttention "
        "sew_d.SEWDAttention step3p7.Step3p7Attention switch_transformers.SwitchTransformersAttention t5.T5Attention "
        "udop.UdopAttention umt5.UMT5Attention wav2vec2_bert.Wav2Vec2BertSelfAttention "
        "wav2vec2_conformer.Wav2Vec2ConformerSelfAttention",
    ),
    # Wrapped: by layers that may clip, or because that of another part of the model holds one weight per codebook.
    **_by_class(
        partial(
            split_layout, query="q_proj.linear", key="k_proj.linear", value="v_proj.linear", output="o_proj.linear"
        ),
        "gemma4.Gemma4VisionAttention kyutai_speech_to_text.KyutaiSpeechToTextAttention moshi.MoshiAttention",
    ),
    # Beside the keys of positions.
    **_by_class(
        partial(
            split_layout,
            query="attn.q_proj",
            key="attn.k_proj",
            value="attn.v_proj",
            output="post",
            stated_by="attn",
        ),
        "gemma3n.Gemma3nAudioConformerAttention",
    ),
    **_by_class(
        partial(split_layout, query="attn.q", key="attn.k", value="attn.v", output="attn.o", stated_by="attn"),
        "mpnet.MPNetAttention",
    ),
    # What it calls the size of a head is that of all heads.
    **_by_class(
        partial(split_layout, query="self.query", key="self.key", value="self.value", output="output.dense"),
        "lxmert.LxmertSelfAttentionLayer",
    ),
    **_by_class(
        partial(split_layout, gate_rows=True),
        "qwen3_next.Qwen3NextAttention qwen3_5.Qwen3_5Attention qwen3_5_moe.Qwen3_5MoeAttention "
        "qwen4_exp.Qwen4ExpTextAttention",
    ),
    **_by_class(latent_layout, _LATENT),
    **_by_class(partial(latent_layout, query="q_gate_proj", gate_rows=True), "axk2.AXK2Attention"),
    **_by_class(_dots_layout, "dots3_note.Dots3NoteTextAttention"),
    **_by_class(_mistral_large_layout, "mistral_large4.MistralLarge4TextAttention"),
    **_by_class(concatenated_layout, "phi3.Phi3Attention phi4_multimodal.Phi4MultimodalAttention"),
    **_by_class(_gpt2_layout, "gpt2.GPT2Attention decision_transformer.DecisionTransformerGPT2Attention"),
    **_by_class(partial(concatenated_layout, fused="c_attn", output="c_proj"), "imagegpt.ImageGPTAttention"),
    **_by_class(partial(concatenated_layout, fused="att_proj", output="out_proj"), "bark.BarkSelfAttention"),
    **_by_class(
        query_apart_layout,
        "granite_speech.GraniteSpeechConformerAttention granite_speech_plus.GraniteSpeechPlusConformerAttention",
    ),
    **_by_class(
        partial(_concatenated_evenly, output="projection"),
        "blip.BlipAttention blip_2.Blip2Attention instructblip.InstructBlipAttention "
        "instructblipvideo.InstructBlipVideoAttention",
    ),
    **_by_class(
        _concatenated_evenly,
        "cohere_compass.CohereCompassVisionAttention dots3_note.Dots3NoteVisionAttention "
        "ernie4_5_vl_moe.Ernie4_5_VLMoeVisionAttention florence2.Florence2VisionWindowAttention "
        "glm4v.Glm4vVisionAttention glm4v_moe.Glm4vMoeVisionAttention glm5_next.Glm5NextVisionAttention "
        "glm_image.GlmImageVisionAttention glm_ocr.GlmOcrVisionAttention qwen2_5_vl.Qwen2_5_VLVisionAttention "
        "qwen2_vl.VisionAttention qwen3_5.Qwen3_5VisionAttention qwen3_5_moe.Qwen3_5MoeVisionAttention "
        "qwen3_omni_moe.Qwen3OmniMoeVisionAttention qwen3_vl.Qwen3VLVisionAttention "
        "qwen3_vl_moe.Qwen3VLMoeVisionAttention qwen4_exp.Qwen4ExpVisionAttention",
    ),
    # Beside distances that all heads share.
    **_by_class(
        partial(_concatenated_evenly, stated="num_attention_heads"),
        "deepseek_ocr2.DeepseekOcr2SamVisionAttention deepseek_ocr2.DeepseekOcr2SamVisionSdpaAttention "
        "got_ocr2.GotOcr2VisionAttention pp_formulanet.PPFormulaNetVisionAttention "
        "unlimited_ocr.UnlimitedOcrSamVisionAttention unlimited_ocr.UnlimitedOcrSamVisionSdpaAttention",
    ),
    **_by_class(
        partial(concatenated_layout, fused="qkv", output="proj"),
        "exaone4_5.Exaone4_5_VisionAttention",
    ),
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
    **_by_class(_esmfold_layout, "esm.modeling_esmfold.EsmFoldAttention"),
    **_by_class(_esmfold_sequence_layout, "esm.modeling_esmfold.EsmFoldSelfAttention"),
    **_by_class(_evolla_layout, "evolla.EvollaSequenceCompressorAttention"),
    # Four blocks, as the model was trained; the number is written into its forward.
    **_by_class(partial(blocked_layout, blocks=4), "codegen.CodeGenAttention"),
}
"""How to place the heads of each class that :mod:`qkov.general_rule` does not cover."""

_REUSED = "layers may take the keys and values of an earlier layer, and then have none of their own"
_TWO_RUNS = (
    "projections of it run twice in one pass, for two kinds of tokens, and one gradient cannot be told from the other"
)
_SEVERAL_RUNS = "the same weights serve several layers or run several times, so a gradient belongs to no single layer"

REASONS: dict[str, str] = {
    _qualified(name): reason
    for reason, names in (
        (
            "all heads read one key, which is their value too, and groups of heads share a second output projection",
            "deepseek_v4.DeepseekV4Attention",
        ),
        (_REUSED, "gemma3n.Gemma3nTextAttention gemma4.Gemma4TextAttention"),
        (
            _SEVERAL_RUNS,
            "albert.AlbertAttention hrm_text.HrmTextAttention t5gemma2.T5Gemma2MergedAttention zamba.ZambaAttention "
            "zamba2.Zamba2Attention",
        ),
        ("two query heads are subtracted from each other and share a value", "diffllama.DiffLlamaAttention"),
        ("its values also decide which positions all heads attend to", "doge.DogeAttention"),
        ("all heads together choose the delays at which values are read", "autoformer.AutoformerAttention"),
        (
            "queries take part or not by a random sample of keys, so no two passes compute the same",
            "informer.InformerProbSparseAttention",
        ),
        (
            "its values also reach the output through a convolution beside the output projection",
            "fun_asr_nano.FunAsrNanoAttention",
        ),
        (
            "a convolution is mixed into its heads",
            "convbert.ConvBertAttention inkling.InklingAttention inkling2.Inkling2FullAttention "
            "inkling2.Inkling2SlidingAttention zaya.ZayaAttention",
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
            "its fused projection is a parameter that torch.nn.MultiheadAttention keeps, and not a layer",
            "phi4_multimodal.Phi4MultimodalVisionMultiheadAttentionPoolingHead "
            "siglip.SiglipMultiheadAttentionPoolingHead siglip2.Siglip2MultiheadAttentionPoolingHead",
        ),
        (
            "the same projection makes the queries of one direction and the keys of the other",
            "mm_grounding_dino.MMGroundingDinoBiMultiHeadAttention",
        ),
        (
            "it computes no keys: a projection of the query says where to read and with which weights",
            "mm_grounding_dino.MMGroundingDinoMultiscaleDeformableAttention "
            "pp_doclayout_v2.PPDocLayoutV2MultiscaleDeformableAttention",
        ),
        (
            "keys are chosen at random and in blocks, outside of its projections",
            "big_bird.BigBirdBlockSparseAttention bigbird_pegasus.BigBirdPegasusBlockSparseAttention",
        ),
        (
            "the biases of its fused projection are parameters of the attention, and its queries and keys also meet "
            "positions",
            "deberta.DebertaAttention",
        ),
        ("its projections are handed to one function and never called as layers", "wavlm.WavLMAttention"),
        ("queries and keys read a narrower input than values", "mobilebert.MobileBertAttention"),
        ("its query is one learned token without a projection", "aimv2.Aimv2AttentionPoolingHead"),
        (
            "torch.nn.MultiheadAttention holds its projections as one parameter and calls no layer for it",
            "aria.AriaCrossAttention bridgetower.BridgeTowerResidualAttention "
            "idefics2.Idefics2MultiheadAttentionPoolingHead",
        ),
        (
            "its queries, keys and values are convolutions",
            "chameleon.ChameleonVQVAEEncoderAttnBlock janus.JanusVQVAEAttnBlock",
        ),
        (
            "some of its layers have no values of their own and use their keys",
            "diffusion_gemma.DiffusionGemmaDecoderTextAttention diffusion_gemma.DiffusionGemmaEncoderTextAttention",
        ),
        (
            "it attends between channels, so every query reads all positions",
            "florence2.Florence2VisionChannelAttention",
        ),
        (
            "it reads values at positions that it computes, and has no keys",
            "grounding_dino.GroundingDinoMultiscaleDeformableAttention grounding_dino.MultiScaleDeformableAttention",
        ),
        (
            "what asks in one of its two directions answers in the other, with the same weights",
            "grounding_dino.GroundingDinoBiMultiHeadAttention",
        ),
        ("it assigns every token to one group over the whole width, without heads", "groupvit.GroupViTAssignAttention"),
        (
            _TWO_RUNS,
            "longt5.LongT5TransientGlobalAttention lxmert.LxmertCrossAttentionLayer "
            "pegasus_x.PegasusXGlobalLocalAttention prophetnet.ProphetNetNgramSelfAttention",
        ),
        ("its projections are convolutions in groups", "squeezebert.SqueezeBertSelfAttention"),
        (
            "biases of the attention join its queries, and positions meet them through a three-dimensional parameter",
            "funnel.FunnelRelMultiheadAttention",
        ),
        (
            "queries and keys are averaged to landmarks that serve all positions, and a convolution is mixed into its "
            "heads",
            "nystromformer.NystromformerAttention",
        ),
        ("it runs in a kernel of its own for CUDA, and gives zeros without it", "mra.MraAttention"),
        (
            "positions have values of their own, which a head gives out beside those of its content",
            "vits.VitsAttention",
        ),
        (
            "its layers run without gradients and again during the backward pass, and hashed ones have no keys of their "
            "own",
            "reformer.ReformerAttention",
        ),
        (
            "its queries and keys also meet points in space, which it projects apart",
            "esm.modeling_esmfold.EsmFoldInvariantPointAttention",
        ),
        (
            "keys and values come from several projections, one for each kind of input",
            "evolla.EvollaSequenceAlignerCrossAttention",
        ),
        ("it gives out scores and has no output projection", "visual_bert.VisualBertRegionToPhraseAttention"),
    )
    for name in names.split()
}
"""Why the heads of a class cannot be placed."""

WITHOUT_HEADS = frozenset(
    _qualified(name)
    for name in (
        "bailing_hybrid.BailingHybridDeltaAttention",
        "glm5_next.Glm5NextTextLinearAttention",
        "hubert.HubertAttnAdapterLayer",
        "inkling2.Inkling2BlockAttentionResidual",
        "esmfold2.EsmFold2RowAttentionPooling",
        "kimi_linear.KimiLinearDeltaAttention",
        "minimax.MiniMaxLightningAttention",
        "olmo_hybrid.OlmoHybridLinearAttentionDecoderLayer",
        "patchtsmixer.PatchTSMixerGatedAttention",
        "phi4_multimodal.Phi4MultimodalAudioRelativeAttentionBias",
        "slanet.SLANetAttentionGRUCell",
        "unispeech.UniSpeechAttnAdapterLayer",
        "unispeech_sat.UniSpeechSatAttnAdapterLayer",
        "wav2vec2.Wav2Vec2AttnAdapterLayer",
    )
)
"""Attention by name only: passed over, as state space layers are, where other layers have attention.

Linear attention, weighted residuals, biases, gates, adapters, and weights of a mean that one score per position gives,
without queries, keys and values.
"""
