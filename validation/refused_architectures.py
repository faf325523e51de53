"""Families of transformers whose heads cannot be placed, as data, with words of the reason that the error must state."""

from .found_architectures import MOE, PLAIN
from .tiny_models import VOCAB_SIZE, models


def refused():
    """Pairs of an architecture and words of the reason."""
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
            "deepseek_v4:DeepseekV4ForCausalLM",
            MOE | {"head_dim": 8, "q_lora_rank": 8, "o_groups": 2, "o_lora_rank": 4},
            "all heads read one key",
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
        ("big_bird:BigBirdModel", {"attention_type": "block_sparse"}, "keys are chosen at random"),
    ):
        yield next(models(PLAIN, pair, options=options)), reason
