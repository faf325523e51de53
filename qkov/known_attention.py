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


def _blip_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """As many kv heads as heads, which nobody states."""
    return concatenated_layout(module, name, config, fused="qkv", output="projection", num_kv_heads=module.num_heads)


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


def _gpt2_layout(module: nn.Module, name: str, config: Any) -> AttentionLayout:
    """Self-attention fuses queries, keys and values; cross-attention fuses keys and values and takes queries apart."""
    names = {"fused": "c_attn", "output": "c_proj", "num_heads": module.num_heads}
    if module.is_cross_attention:
        return query_apart_layout(module, name, config, query="q_attn", **names)
    return concatenated_layout(module, name, config, **names)


def _by_class(finder: Finder, names: str) -> dict[str, Finder]:
    return {_qualified(name): finder for name in names.split()}


def _qualified(short: str) -> str:
    """Spell out ``package.Class`` or ``package.module.Class``."""
    package, *module, name = short.split(".")
    return f"transformers.models.{package}.{module[0] if module else f'modeling_{package}'}.{name}"


FINDERS: dict[str, Finder] = {
    # The general rule, beside weights of no block: gates, biases by distance, queries of another kind.
    **_by_class(
        general_layout,
        "afmoe.AfmoeAttention deberta_v2.DebertaV2Attention laguna.LagunaAttention lfm3.Lfm3Attention "
        "luke.LukeAttention mt5.MT5Attention switch_transformers.SwitchTransformersAttention t5.T5Attention "
        "umt5.UMT5Attention",
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
        "qwen3_next.Qwen3NextAttention qwen3_5.Qwen3_5Attention qwen3_5_moe.Qwen3_5MoeAttention",
    ),
    **_by_class(concatenated_layout, "phi3.Phi3Attention"),
    **_by_class(_gpt2_layout, "gpt2.GPT2Attention"),
    **_by_class(partial(concatenated_layout, fused="c_attn", output="c_proj"), "imagegpt.ImageGPTAttention"),
    **_by_class(_blip_layout, "blip.BlipAttention"),
    **_by_class(
        _concatenated_evenly,
        "hiera.HieraMaskUnitAttention mgp_str.MgpstrAttention vitdet.VitDetAttention",
    ),
    **_by_class(
        partial(_concatenated_evenly, stated="num_attention_heads"),
        "sam.SamVisionAttention sam.SamVisionSdpaAttention sam_hq.SamHQVisionAttention "
        "sam_hq.SamHQVisionSdpaAttention slanext.SLANeXtVisionAttention sam2.Sam2MultiScaleAttention seggpt.SegGptAttention",
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
    # Four blocks, as the model was trained; the number is written into its forward.
    **_by_class(partial(blocked_layout, blocks=4), "codegen.CodeGenAttention"),
}
"""How to place the heads of each class that :mod:`qkov.general_rule` does not cover."""

_LATENT = "its keys and values are made from a latent that all heads share (multi-latent attention)"
_REUSED = "layers may take the keys and values of an earlier layer, and then have none of their own"
_SEVERAL_RUNS = "the same weights serve several layers or run several times, so a gradient belongs to no single layer"

REASONS: dict[str, str] = {
    _qualified(name): reason
    for reason, names in (
        (
            _LATENT,
            "deepseek_v2.DeepseekV2Attention deepseek_v3.DeepseekV3Attention glm4_moe_lite.Glm4MoeLiteAttention "
            "longcat_flash.LongcatFlashMLA minicpm3.MiniCPM3Attention youtu.YoutuAttention axk1.AXK1Attention "
            "deepseek_v32.DeepseekV32Attention glm_moe_dsa.GlmMoeDsaAttention hy_v4.HYV4Attention "
            "mistral4.Mistral4Attention axk2.AXK2Attention bailing_hybrid.BailingHybridAttention "
            "deepseek_v4.DeepseekV4Attention dots3_note.Dots3NoteTextAttention kimi_linear.KimiLinearAttention",
        ),
        (_REUSED, "gemma3n.Gemma3nTextAttention gemma4.Gemma4TextAttention"),
        (
            _SEVERAL_RUNS,
            "albert.AlbertAttention edgetam_video.EdgeTamVideoPerceiverAttention hrm_text.HrmTextAttention "
            "zamba.ZambaAttention zamba2.Zamba2Attention",
        ),
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
        (
            "it reads values at positions that it computes, and has no keys",
            "d_fine.DFineMultiscaleDeformableAttention deformable_detr.DeformableDetrMultiscaleDeformableAttention "
            "deimv2.Deimv2MultiscaleDeformableAttention lw_detr.LwDetrMultiscaleDeformableAttention "
            "mask2former.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention "
            "omdet_turbo.OmDetTurboMultiscaleDeformableAttention "
            "oneformer.OneFormerPixelDecoderEncoderMultiscaleDeformableAttention "
            "pp_doclayout_v3.PPDocLayoutV3MultiscaleDeformableAttention "
            "pp_doclayout_v4.PPDocLayoutV4MultiscaleDeformableAttention rf_detr.RfDetrMultiscaleDeformableAttention "
            "rt_detr.RTDetrMultiscaleDeformableAttention rt_detr_v2.RTDetrV2MultiscaleDeformableAttention",
        ),
        (
            "its queries and keys are made by several projections each, of contents and of positions",
            "conditional_detr.ConditionalDetrDecoderCrossAttention conditional_detr.ConditionalDetrDecoderSelfAttention "
            "dab_detr.DabDetrDecoderLayerCrossAttention dab_detr.DabDetrDecoderLayerSelfAttention",
        ),
        (
            "it has queries and keys, but no values",
            "conditional_detr.ConditionalDetrMHAttentionMap dab_detr.DabDetrMHAttentionMap detr.DetrMHAttentionMap "
            "maskformer.MaskFormerDetrMHAttentionMap",
        ),
        ("it has no output projection", "vjepa2.VJEPA2PoolerCrossAttention"),
        (
            "its tokens are weighed by one number each and summed up, and no query meets a single key",
            "mobilevitv2.MobileViTV2LinearSelfAttention swiftformer.SwiftFormerEfficientAdditiveAttention",
        ),
    )
    for name in names.split()
} | {
    "torch.nn.modules.activation.MultiheadAttention": (
        "torch.nn.MultiheadAttention holds its projections as one parameter and calls no layer for it"
    )
}
"""Why the heads of a class cannot be placed."""

WITHOUT_HEADS = frozenset(
    _qualified(name)
    for name in (
        "bailing_hybrid.BailingHybridDeltaAttention",
        "edgetam_video.EdgeTamVideoMemoryAttentionMLP",
        "kimi_linear.KimiLinearDeltaAttention",
        "minimax.MiniMaxLightningAttention",
        "olmo_hybrid.OlmoHybridLinearAttentionDecoderLayer",
        "slanext.SLANeXtAttentionGRUCell",
    )
)
"""Attention by name only (linear, a cell that weighs tokens by one number each, an MLP): passed over, as state space
layers are, where other layers have attention."""
