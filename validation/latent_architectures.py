"""Families with multi-latent attention, as data; all widths and both ranks are different.

A query head is 5 + 4 wide, the 4 meeting a key that all heads share; a head's own key is 5 wide and a value 3.
"""

from .tiny_models import causal_models, models

NOPE, ROPE, VALUE = 5, 4, 3
_HEADS = {"hidden_size": 30, "num_attention_heads": 6, "num_key_value_heads": 6}
_EXPECTED = {"head_dim": NOPE + ROPE}
_LATENT = {
    "v_head_dim": VALUE,
    "qk_nope_head_dim": NOPE,
    "qk_rope_head_dim": ROPE,
    "kv_lora_rank": 8,
    "q_lora_rank": 11,
}
# One group of experts: the selection of groups by default expects more experts than there are.
_GROUPS = {"n_group": 1, "topk_group": 1, "topk_method": "greedy"}
# As many positions as a sample has tokens; tests/test_latent_attention.py leaves some out.
_INDEXER = {"index_topk": 6, "index_head_dim": 6, "index_n_heads": 2}
_LAST_FULL = {"layer_types": ["linear_attention", "full_attention"], "linear_head_dim": 4, "linear_num_heads": 2}


def latent_models(experts):
    """Entries of the families; ``experts`` are the options that shrink a mixture of experts."""
    common = {"packing": "multi-latent", "expected": _EXPECTED}
    sizes, options = _HEADS | _LATENT, experts | _GROUPS
    plain = "axk1:AXK1 deepseek_v2:DeepseekV2 deepseek_v3:DeepseekV3 glm4_moe_lite:Glm4MoeLite minicpm3:MiniCPM3 youtu:Youtu"
    yield from causal_models(sizes, plain, options=options, **common)
    yield from causal_models(sizes, "mistral4:Mistral4", options=options, **common)
    yield from causal_models(
        sizes, "deepseek_v32:DeepseekV32 glm_moe_dsa:GlmMoeDsa hy_v4:HYV4", options=options | _INDEXER, **common
    )
    yield from causal_models(sizes, "axk2:AXK2", options=options | _INDEXER, gated=True, **common)
    # The queries of these read the hidden state.
    no_rank = options | _LAST_FULL | {"q_lora_rank": None}
    hybrid = "kimi_linear:KimiLinear bailing_hybrid:BailingHybrid"
    yield from causal_models(sizes, hybrid, options=no_rank, layers=(1,), **common)
    # Each layer has two attention modules, two kinds, and the configuration counts them as two layers.
    for name, place in (("longcat_flash", 0), ("longcat_flash-second", 1)):
        yield from causal_models(
            sizes,
            f"{name}:LongcatFlash",
            options=options | {"head_dim": ROPE, "num_experts_per_tok": 2, "num_hidden_layers": 4, "num_layers": 2},
            attention=f"model.layers.*.self_attn.{place}",
            **common,
        )
    # Without rotary positions no part of a key is shared, so keys are as wide as queries.
    yield from models(
        sizes | {"qk_rope_head_dim": 0},
        "glm5_next_text:Glm5NextTextModel",
        options=options | _INDEXER | _LAST_FULL | {"index_kpool": 2},
        layers=(1,),
        packing="multi-latent",
        expected={"head_dim": NOPE},
    )
    # The second layer reads the latent of the first.
    yield from models(
        _HEADS | _LATENT,
        "mistral_large4_text:MistralLarge4TextModel",
        options=options | _INDEXER | {"kv_source_layers": [0, 0], "q_lora_rank": None},
        **common,
    )
    yield from causal_models(sizes, "dots3_note:Dots3Note", options=options | _INDEXER, **common)
