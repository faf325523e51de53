"""Families of transformers whose heads cannot be placed, as data, with words of the reason that the error must state."""

from . import found_detection, found_prompted, found_vision
from .found_architectures import MOE, PLAIN
from .tiny_models import VOCAB_SIZE, causal_models, models

_LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4}
_MULTI = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 6}


def _refused():
    """Pairs of an architecture and words of the reason."""
    latent = (
        "deepseek_v2:DeepseekV2 deepseek_v3:DeepseekV3 minicpm3:MiniCPM3 youtu:Youtu glm4_moe_lite:Glm4MoeLite "
        "longcat_flash:LongcatFlash"
    )
    for one in causal_models(_MULTI, latent, options=MOE | _LATENT):
        yield one, "a latent that all heads share"
    few = {"vocab_size_per_layer_input": VOCAB_SIZE, "hidden_size_per_layer_input": 3}
    for pair, options, reason in (
        ("albert:AlbertModel", {"embedding_size": 24}, "several layers"),
        ("zamba:ZambaModel", {"num_hidden_layers": 3, "layer_types": ["mamba", "hybrid", "hybrid"]}, "several layers"),
        ("hrm_text:HrmTextModel", {"head_dim": 4}, "several times"),
        ("diffllama:DiffLlamaForCausalLM", {}, "two query heads are subtracted"),
        ("doge:DogeForCausalLM", {}, "its values also decide"),
        ("convbert:ConvBertModel", {}, "a convolution"),
        ("zaya:ZayaForCausalLM", MOE, "a convolution"),
        ("jetmoe:JetMoeForCausalLM", MOE, "every expert"),
        ("inkling:InklingForCausalLM", MOE, "a convolution"),
        (
            "kimi_linear:KimiLinearForCausalLM",
            MOE | _LATENT | {"layer_types": ["linear_attention", "full_attention"]},
            "a latent that all heads share",
        ),
        ("rwkv:RwkvModel", {}, "a recurrence"),
        (
            "xlnet:XLNetModel",
            {"d_inner": 7, "d_head": 4, "max_position_embeddings": None},
            "three-dimensional parameters",
        ),
        ("longformer:LongformerModel", {"attention_window": 4}, "a second set"),
        ("ibert:IBertModel", {}, "has no gradient"),
        ("deberta:DebertaModel", {}, "biases of its fused projection"),
        (
            "wavlm:WavLMModel",
            {
                "num_feat_extract_layers": 1,
                "conv_dim": (8,),
                "conv_stride": (4,),
                "conv_kernel": (4,),
                "num_conv_pos_embedding_groups": 2,
            },
            "never called",
        ),
        ("mobilebert:MobileBertModel", {}, "a narrower input"),
        ("gemma3n:Gemma3nForCausalLM", few | {"num_kv_shared_layers": 0}, "keys and values of an earlier layer"),
        ("gemma4:Gemma4ForCausalLM", few | {"num_kv_shared_layers": 0}, "keys and values of an earlier layer"),
        ("mamba:MambaForCausalLM", {}, "contains no known attention module"),
        ("falcon_mamba:FalconMambaForCausalLM", {}, "contains no known attention module"),
        ("big_bird:BigBirdModel", {"attention_type": "block_sparse"}, "expected"),
    ):
        yield next(models(PLAIN, pair, options=options)), reason


REFUSED = {
    one.name: (one, reason)
    for one, reason in (*_refused(), *found_vision.refused(), *found_detection.refused(), *found_prompted.refused())
}
"""Families whose heads cannot be placed, by name, with words of the reason that the error must state."""
