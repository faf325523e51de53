"""The attention classes of transformers that the general rule does not cover, and how to place their heads.

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
from .linear import transformers_class
from .packings import (
    blocked_layout,
    concatenated_layout,
    grouped_layout,
    interleaved_layout,
    query_apart_layout,
    split_layout,
)

Finder = Callable[[nn.Module, str, Any], AttentionLayout]


def _falcon_layout(module: Any, name: str, config: Any) -> AttentionLayout:
    """Three packings under one class; the configuration states a number of kv heads that two of them ignore."""
    heads = module.num_heads
    if module.new_decoder_architecture:
        return grouped_layout(module, name, config, num_heads=heads, num_kv_heads=module.num_kv_heads)
    if module.multi_query:
        names: dict[str, Any] = {"fused": "query_key_value", "output": "dense"}
        return concatenated_layout(module, name, config, **names, num_heads=heads, num_kv_heads=1)
    return interleaved_layout(module, name, config, num_heads=heads)


def _gpt_bigcode_layout(module: Any, name: str, config: Any) -> AttentionLayout:
    """Concatenated around a single kv head, or else interleaved by head."""
    names: dict[str, Any] = {"fused": "c_attn", "output": "c_proj", "num_heads": module.num_heads}
    if module.multi_query:
        return concatenated_layout(module, name, config, **names, num_kv_heads=1)
    return interleaved_layout(module, name, config, **names)


def _openai_layout(module: Any, name: str, config: Any) -> AttentionLayout:
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


def _esmfold_layout(module: Any, name: str, config: Any) -> AttentionLayout:
    """Attention along rows or columns of pairs, beside a gate; it has a name of its own for everything."""
    names: dict[str, Any] = {"query": "linear_q", "key": "linear_k", "value": "linear_v", "output": "linear_o"}
    return split_layout(module, name, config, **names, num_heads=module.no_heads, num_kv_heads=module.no_heads)


def _esmfold_sequence_layout(module: Any, name: str, config: Any) -> AttentionLayout:
    """Interleaved; the configuration states the heads of the language model in front."""
    return interleaved_layout(module, name, config, fused="proj", output="o_proj", num_heads=module.num_heads)


def _evolla_layout(module: Any, name: str, config: Any) -> AttentionLayout:
    """A few latents ask, protein and latents answer."""
    return query_apart_layout(module, name, config, num_heads=module.heads, num_kv_heads=module.heads)


def _gpt2_layout(module: Any, name: str, config: Any) -> AttentionLayout:
    """Self-attention fuses queries, keys and values; cross-attention fuses keys and values and takes queries apart."""
    names: dict[str, Any] = {"fused": "c_attn", "output": "c_proj", "num_heads": module.num_heads}
    if module.is_cross_attention:
        return query_apart_layout(module, name, config, query="q_attn", **names)
    return concatenated_layout(module, name, config, **names)


def _dots_layout(module: Any, name: str, config: Any) -> AttentionLayout:
    """Sliding layers have sizes of their own, which the configuration keeps by layer."""
    return latent_layout(module, name, config and config.per_layer_config[module.layer_idx])


def _mistral_large_layout(module: Any, name: str, config: Any) -> AttentionLayout:
    """Layers without rotary positions have wider keys of their own, and some read the latent of an earlier layer."""
    down = None if module.kv_a_proj_with_mqa is None else "kv_a_proj_with_mqa"
    return latent_layout(module, name, None, latent=down)


def _by_class(finder: Finder, names: str) -> dict[str, Finder]:
    return {transformers_class(name): finder for name in names.split()}


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
    # The same, beside biases between the places of a window, or convolutions before keys and values.
    **_by_class(
        general_layout,
        "donut.modeling_donut_swin.DonutSwinAttention glpn.GLPNAttention "
        "maskformer.modeling_maskformer_swin.MaskFormerSwinAttention pvt.PvtAttention pvt_v2.PvtV2SelfAttention "
        "segformer.SegformerAttention swin.SwinAttention swin2sr.Swin2SRAttention swinv2.Swinv2Attention",
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
        partial(
            split_layout,
            query="attention.projection_query",
            key="attention.projection_key",
            value="attention.projection_value",
            output="output.dense",
            stated_by="attention",
        ),
        "cvt.CvtAttention",
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
    **_by_class(
        _concatenated_evenly,
        "hiera.HieraMaskUnitAttention mgp_str.MgpstrAttention vitdet.VitDetAttention",
    ),
    **_by_class(
        partial(_concatenated_evenly, stated="num_attention_heads"),
        "sam.SamVisionAttention sam.SamVisionSdpaAttention sam_hq.SamHQVisionAttention "
        "sam_hq.SamHQVisionSdpaAttention sam2.Sam2MultiScaleAttention seggpt.SegGptAttention "
        "slanext.SLANeXtVisionAttention",
    ),
    **_by_class(
        partial(_concatenated_evenly, output="projection"),
        "pp_ocrv5_mobile_rec.PPOCRV5MobileRecAttention pp_ocrv5_server_rec.PPOCRV5ServerRecAttention "
        "pp_ocrv6_small_rec.PPOCRV6SmallRecAttention",
    ),
    **_by_class(
        partial(_concatenated_evenly, fused="attention.qkv", output="output.dense", stated_by="attention"),
        "timesformer.TimeSformerAttention",
    ),
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
    **_by_class(
        partial(interleaved_layout, fused="queries_keys_values.linear", output="projection.linear"),
        "levit.LevitAttention",
    ),
    **_by_class(
        partial(
            query_apart_layout,
            query="queries.linear",
            fused="keys_values.linear",
            output="projection.linear",
            order="interleaved",
        ),
        "levit.LevitAttentionSubsample",
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
