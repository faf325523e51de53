"""The attention classes of transformers whose heads cannot be placed, with the reason, and those that have no heads.

Data, by exact class. Every reason of :data:`REASONS` is shown on a model, see ``validation/refused_architectures.py``.
"""

from __future__ import annotations

from .linear import transformers_class as _qualified

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
            "albert.AlbertAttention edgetam_video.EdgeTamVideoPerceiverAttention hrm_text.HrmTextAttention "
            "t5gemma2.T5Gemma2MergedAttention zamba.ZambaAttention zamba2.Zamba2Attention",
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
            "the same projection makes the queries of one direction and the keys of the other",
            "mm_grounding_dino.MMGroundingDinoBiMultiHeadAttention",
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
            "idefics2.Idefics2MultiheadAttentionPoolingHead "
            "phi4_multimodal.Phi4MultimodalVisionMultiheadAttentionPoolingHead "
            "siglip.SiglipMultiheadAttentionPoolingHead siglip2.Siglip2MultiheadAttentionPoolingHead",
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
        (
            "it reads values at positions that it computes, and has no keys",
            "d_fine.DFineMultiscaleDeformableAttention deformable_detr.DeformableDetrMultiscaleDeformableAttention "
            "deimv2.Deimv2MultiscaleDeformableAttention lw_detr.LwDetrMultiscaleDeformableAttention "
            "mask2former.Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention "
            "omdet_turbo.OmDetTurboMultiscaleDeformableAttention "
            "oneformer.OneFormerPixelDecoderEncoderMultiscaleDeformableAttention "
            "pp_doclayout_v3.PPDocLayoutV3MultiscaleDeformableAttention "
            "pp_doclayout_v4.PPDocLayoutV4MultiscaleDeformableAttention rf_detr.RfDetrMultiscaleDeformableAttention "
            "rt_detr.RTDetrMultiscaleDeformableAttention rt_detr_v2.RTDetrV2MultiscaleDeformableAttention "
            "grounding_dino.GroundingDinoMultiscaleDeformableAttention grounding_dino.MultiScaleDeformableAttention "
            "mm_grounding_dino.MMGroundingDinoMultiscaleDeformableAttention "
            "pp_doclayout_v2.PPDocLayoutV2MultiscaleDeformableAttention",
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
        "glm5_next.Glm5NextTextLinearAttention",
        "edgetam_video.EdgeTamVideoMemoryAttentionMLP",
        "hubert.HubertAttnAdapterLayer",
        "inkling2.Inkling2BlockAttentionResidual",
        "esmfold2.EsmFold2RowAttentionPooling",
        "kimi_linear.KimiLinearDeltaAttention",
        "minimax.MiniMaxLightningAttention",
        "olmo_hybrid.OlmoHybridLinearAttentionDecoderLayer",
        "patchtsmixer.PatchTSMixerGatedAttention",
        "phi4_multimodal.Phi4MultimodalAudioRelativeAttentionBias",
        "slanet.SLANetAttentionGRUCell",
        "slanext.SLANeXtAttentionGRUCell",
        "unispeech.UniSpeechAttnAdapterLayer",
        "unispeech_sat.UniSpeechSatAttnAdapterLayer",
        "wav2vec2.Wav2Vec2AttnAdapterLayer",
    )
)
"""Attention by name only: passed over, as state space layers are, where other layers have attention.

Linear attention, weighted residuals, biases, gates, adapters, and weights of a mean that one score per position gives,
without queries, keys and values.
"""
