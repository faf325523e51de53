"""Every family's layout is what its model computes, and anything uncertain is refused with the module's name."""

import dataclasses
import re
from functools import partial

import pytest
import torch
import transformers
from torch import nn

import qkov
from qkov import geometry, locate
from qkov.errors import LayoutError
from qkov.packings import concatenated_layout, interleaved_layout, split_layout
from tests.builders import build_batch, build_model
from tests.layout_proof import prove_layout
from validation import tiny_models
from validation.architectures import ARCHITECTURES
from validation.synthetic import draw_weights

# Hidden, heads, kv heads and head_dim are all different where the family allows it.
WIDE = {"hidden_size": 30, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4}
GROUPED = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2}
PLAIN = {"hidden_size": 24, "num_attention_heads": 6}

# Family: class prefix of its model, sizes, further options.
FAMILIES = {
    "gpt2": ("GPT2", PLAIN, {}),
    "gpt_neox": ("GPTNeoX", PLAIN, {}),
    "opt": ("OPT", PLAIN, {"ffn_dim": 7, "word_embed_proj_dim": 24}),
    "bert": ("Bert", PLAIN, {}),
    "roberta": ("Roberta", PLAIN, {}),
    "phi3": ("Phi3", WIDE, {}),
    "llama": ("Llama", WIDE, {}),
    "llama-bias": ("Llama", WIDE, {"attention_bias": True}),
    "llama-mqa": ("Llama", WIDE | {"num_key_value_heads": 1}, {}),
    "mistral": ("Mistral", WIDE, {}),
    "mixtral": ("Mixtral", WIDE, {"num_local_experts": 2, "num_experts_per_tok": 1}),
    "qwen2": ("Qwen2", GROUPED, {}),
    "qwen3": ("Qwen3", WIDE, {}),
    "qwen3_moe": ("Qwen3Moe", WIDE, {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 7}),
    "gemma": ("Gemma", WIDE, {}),
    "gemma2": ("Gemma2", WIDE, {}),
    "granite": ("Granite", GROUPED, {}),
    "starcoder2": ("Starcoder2", GROUPED, {}),
}


def tiny(family, **changes):
    """Build a random model of a family in float64, eager attention, eval mode; all biases nonzero."""
    prefix, sizes, options = FAMILIES[family]
    shared = {"vocab_size": 13, "num_hidden_layers": 2, "attn_implementation": "eager"}
    shared["experts_implementation"] = "eager"  # the grouped product has no float64
    shared |= {"intermediate_size": 7, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{prefix}Config")(**(shared | sizes | options | changes))
    torch.manual_seed(3)
    model = getattr(transformers, f"{prefix}Model")(config).double().eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def prove(family, model, layout):
    sizes = FAMILIES[family][1]
    width = sizes.get("head_dim", sizes["hidden_size"] // sizes["num_attention_heads"])
    inputs = {"input_ids": torch.tensor([[3, 7, 1, 9, 4]])}
    prove_layout(model, layout, inputs, num_heads=sizes["num_attention_heads"], v_head_dim=width)


@pytest.mark.parametrize("family", FAMILIES)
def test_layout_is_what_the_model_computes(family):
    model = tiny(family)
    layouts = locate.find_attention(model)
    sizes = FAMILIES[family][1]
    assert [layout.layer for layout in layouts] == [0, 1]
    for layout in layouts:
        assert layout.num_heads == 6
        assert layout.num_kv_heads == sizes.get("num_key_value_heads", 6)
        assert layout.head_dim == layout.v_head_dim == 4
        assert layout.hidden_size == sizes["hidden_size"]
        prove(family, model, layout)


def with_projection(layout, block, **changes):
    parts = [dataclasses.replace(p, **changes) if p.block == block else p for p in layout.projections]
    return dataclasses.replace(layout, projections=tuple(parts))


def output_by_rows(model, layout, monkeypatch):
    return with_projection(layout, "O", head_axis=1 - layout.projection("O").head_axis)


def heads_modulo_kv_heads(model, layout, monkeypatch):
    monkeypatch.setattr(geometry, "kv_head_of", lambda head, num_heads, num_kv_heads: head % num_kv_heads)
    return layout


def keys_and_values_exchanged(model, layout, monkeypatch):
    return exchange(layout, "K", "V")


def queries_and_keys_exchanged(model, layout, monkeypatch):
    return exchange(layout, "Q", "K")


def exchange(layout, first, second):
    a, b = layout.projection(first), layout.projection(second)
    swapped = {first: dataclasses.replace(b, block=first), second: dataclasses.replace(a, block=second)}
    return dataclasses.replace(layout, projections=tuple(swapped.get(p.block, p) for p in layout.projections))


def read_as_concatenated(model, layout, monkeypatch):
    module = model.get_submodule(layout.module_name)
    return concatenated_layout(module, layout.module_name, model.config, fused="query_key_value", output="dense")


def read_as_interleaved(model, layout, monkeypatch):
    module = model.get_submodule(layout.module_name)
    return interleaved_layout(module, layout.module_name, model.config, fused="c_attn", output="c_proj")


def heads_in_reverse(model, layout, monkeypatch):
    return with_projection(layout, "V", starts=layout.projection("V").starts[::-1])


@pytest.mark.parametrize(
    ("family", "plant"),
    [
        ("gpt2", output_by_rows),
        ("llama", output_by_rows),
        ("llama", heads_modulo_kv_heads),
        ("phi3", heads_modulo_kv_heads),
        ("gpt_neox", read_as_concatenated),
        ("gpt2", read_as_interleaved),
        ("opt", queries_and_keys_exchanged),
        ("bert", queries_and_keys_exchanged),
        ("gpt2", queries_and_keys_exchanged),
        ("gpt_neox", queries_and_keys_exchanged),
        ("llama", keys_and_values_exchanged),
        ("phi3", keys_and_values_exchanged),
        ("qwen2", heads_in_reverse),
    ],
)
def test_the_experiment_refutes_wrong_layouts(family, plant, monkeypatch):
    model = tiny(family)
    layout = locate.find_attention(model)[1]
    prove(family, model, layout)
    with pytest.raises(AssertionError, match=r"^(head|[QKVO]) \d"):
        prove(family, model, plant(model, layout, monkeypatch))


def test_models_wrapped_in_other_modules_keep_their_layer_indices():
    class Wrapper(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner = nn.ModuleDict({"model": model})

    plain = locate.find_attention(model := tiny("llama", num_hidden_layers=3))
    wrapped = locate.find_attention(Wrapper(model))
    assert [layout.layer for layout in wrapped] == [0, 1, 2]
    assert [layout.module_name for layout in wrapped] == [f"inner.model.{layout.module_name}" for layout in plain]


def test_causal_language_model_head_changes_nothing_but_names():
    config = transformers.GPT2Config(n_embd=24, n_head=6, n_layer=2, vocab_size=13, bos_token_id=1, eos_token_id=2)
    names = [layout.module_name for layout in locate.find_attention(transformers.GPT2LMHeadModel(config))]
    assert names == ["transformer.h.0.attn", "transformer.h.1.attn"]


def refusal(model, attention=None):
    """Return the message with which a model is refused."""
    with pytest.raises(LayoutError) as caught:
        locate.find_attention(model, attention)
    return str(caught.value)


def test_unknown_attention_class_is_refused_by_name():
    class StrangeAttention(nn.Module):
        pass

    message = refusal(nn.ModuleList([StrangeAttention()]))
    assert re.search(r"'0' \(.*StrangeAttention\) looks like attention", message)
    assert "register_layout(StrangeAttention, finder)" in message


def test_one_unknown_attention_among_known_ones_is_refused():
    model = tiny("llama")
    model.layers[1].extra = nn.MultiheadAttention(4, 2)
    assert "'layers.1.extra' (torch.nn.modules.activation.MultiheadAttention)" in refusal(model)


def test_subclass_of_a_known_attention_is_refused():
    class PatchedLlamaAttention(transformers.models.llama.modeling_llama.LlamaAttention):
        pass

    model = tiny("llama")
    model.layers[0].self_attn = PatchedLlamaAttention(model.config, 0)
    assert "PatchedLlamaAttention" in refusal(model)


def test_model_without_attention_is_refused():
    message = refusal(nn.ModuleList([nn.Linear(3, 3)]))
    assert "ModuleList contains no known attention module" in message
    assert "found modules of Linear, ModuleList" in message


def test_what_is_no_model_is_refused():
    assert "Expected a torch.nn.Module, found a dict" in refusal({})


def test_weights_on_the_meta_device_are_refused():
    assert "'layers.0.self_attn.q_proj'" in (message := refusal(tiny("llama").to("meta")))
    assert "meta device" in message


class Linear4bit(nn.Linear):
    """Stands for a linear layer of a quantisation library: a subclass with weights of its own."""


def test_quantised_projections_are_named_with_the_remedy():
    model = tiny("llama")
    model.layers[0].self_attn.q_proj.__class__ = Linear4bit
    message = refusal(model)
    assert "'layers.0.self_attn'" in message
    assert "Linear4bit: load the model without quantisation, or dequantise it" in message


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
def test_weights_in_eight_bits_are_refused(dtype):
    model = tiny("llama")
    projection = model.layers[0].self_attn.k_proj
    projection.weight = nn.Parameter(projection.weight.detach().to(dtype), requires_grad=False)
    message = refusal(model)
    assert "'layers.0.self_attn.k_proj'" in message
    assert f"Parameter of {dtype}; expected plain floating point" in message
    assert "dequantise" in message


def test_tied_weights_between_layers_are_refused():
    model = tiny("llama")
    model.layers[1].self_attn.v_proj.weight = model.layers[0].self_attn.v_proj.weight
    message = refusal(model)
    assert "'layers.0.self_attn.v_proj.weight' and 'layers.1.self_attn.v_proj.weight'" in message
    assert "is tied" in message


def test_key_weight_used_as_value_weight_is_refused():
    model = tiny("opt")
    attention = model.decoder.layers[1].self_attn
    attention.v_proj = attention.k_proj
    assert "is tied" in refusal(model)


def test_weights_that_share_memory_are_refused():
    model = tiny("mistral")
    model.layers[1].self_attn.o_proj.weight.data = model.layers[0].self_attn.o_proj.weight.data
    assert "share their memory" in refusal(model)


def test_attention_module_used_in_two_layers_is_refused():
    model = tiny("llama")
    model.layers[1].self_attn = model.layers[0].self_attn
    assert re.search(r"'layers.1.self_attn' .* is the same object as 'layers.0.self_attn'", refusal(model))


CROSSING = {
    "gpt2": ("GPT2", {"n_embd": 24, "n_head": 6, "n_layer": 2, "bos_token_id": 1, "eos_token_id": 2}, "h.*.attn"),
    "bert": ("Bert", PLAIN | {"num_hidden_layers": 2, "is_decoder": True}, "encoder.layer.*.attention"),
}


@pytest.mark.parametrize("family", CROSSING)
def test_self_and_cross_attention_of_a_decoder_are_named_apart_and_proved(family):
    prefix, options, kind = CROSSING[family]
    config = getattr(transformers, f"{prefix}Config")(vocab_size=13, add_cross_attention=True, **options)
    config._attn_implementation = "eager"
    model = draw_weights(getattr(transformers, f"{prefix}Model")(config).double(), seed=3).eval()
    crossing = kind.replace("attention", "attn").replace("attn", "crossattention")
    assert f"{kind!r}" in refusal(model)
    assert f"{crossing!r}" in refusal(model)
    source = torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs = {"input_ids": torch.tensor([[3, 7, 1, 9, 4]]), "encoder_hidden_states": source}
    for chosen in (kind, crossing):
        layouts = locate.find_attention(model, chosen)
        assert [layout.layer for layout in layouts] == [0, 1]
        for layout in layouts:
            prove_layout(model, layout, inputs, num_heads=6, v_head_dim=4)


def test_random_sparse_attention_is_refused_also_where_it_is_chosen():
    options = {"vocab_size": 13, "num_hidden_layers": 1, "attention_type": "block_sparse"}
    model = transformers.BigBirdModel(transformers.BigBirdConfig(**PLAIN, **options))
    assert "at random and in blocks" in refusal(model)
    assert "at random and in blocks" in refusal(model, "encoder.layer.*.attention")


def test_two_towers_are_looked_at_one_at_a_time():
    both = nn.ModuleDict({"encoder": tiny("bert"), "decoder": tiny("gpt2")})
    assert "'encoder.encoder.layer.*.attention' (BertAttention), 'decoder.h.*.attn'" in refusal(both)
    assert [one.packing for one in locate.find_attention(both, "decoder.h.*.attn")] == ["concatenated"] * 2


def test_attention_in_no_list_is_one_layer():
    attention = nn.ModuleDict({"only": tiny("llama").layers[0].self_attn})
    assert [(one.layer, one.module_name) for one in locate.find_attention(attention)] == [(0, "only")]


def test_layers_in_stages_are_numbered_through():
    stages = nn.ModuleList([nn.ModuleList(tiny("llama", num_hidden_layers=n).layers) for n in (2, 3)])
    stages.config = tiny("llama").config
    found = locate.find_attention(nn.ModuleDict({"stages": stages}), "stages.*.*.self_attn")
    assert [(one.layer, one.module_name) for one in found] == [
        (0, "stages.0.0.self_attn"),
        (1, "stages.0.1.self_attn"),
        (2, "stages.1.0.self_attn"),
        (3, "stages.1.1.self_attn"),
        (4, "stages.1.2.self_attn"),
    ]


def test_several_attention_modules_in_a_layer_are_kinds_of_their_own():
    blocks = [nn.ModuleDict({"attentions": nn.ModuleList(layer.self_attn for layer in tiny("llama").layers)})
              for _ in range(2)]  # fmt: skip
    model = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
    model.config = tiny("llama").config
    assert "'blocks.*.attentions.0' (LlamaAttention), 'blocks.*.attentions.1' (LlamaAttention)" in refusal(model)
    found = locate.find_attention(model, "blocks.*.attentions.1")
    assert [(one.layer, one.module_name) for one in found] == [
        (0, "blocks.0.attentions.1"),
        (1, "blocks.1.attentions.1"),
    ]


def test_a_list_of_the_parts_of_a_layer_does_not_number_layers():
    layers = tiny("llama").layers
    stack = nn.ModuleList([nn.ModuleDict({"parts": nn.ModuleList([nn.Identity(), one])}) for one in layers])
    found = locate.find_attention(stack)
    assert [(one.layer, one.module_name) for one in found] == [
        (0, "0.parts.1.self_attn"), (1, "1.parts.1.self_attn"),
    ]  # fmt: skip


def test_layers_in_a_sequential_are_numbered_by_position():
    layers = tiny("llama").layers
    stack = nn.Sequential(nn.Identity(), layers[0], layers[1])
    assert [layout.layer for layout in locate.find_attention(stack)] == [1, 2]


@pytest.mark.parametrize(
    ("family", "path", "shape", "words"),
    [
        ("llama", "self_attn.k_proj", (7, 30), ["'layers.0.self_attn.k_proj'", "multiple of 4 (head_dim)"]),
        ("llama", "self_attn.k_proj", (16, 30), ["num_kv_heads = 4; expected 2", "config.num_key_value_heads"]),
        ("llama", "self_attn.q_proj", (48, 30), ["num_heads = 12; expected 6 (config.num_attention_heads)"]),
        ("llama", "self_attn.o_proj", (30, 26), ["26 input features; expected num_heads * v_head_dim = 6 * 4 = 24"]),
        ("llama", "self_attn.v_proj", (8, 29), ["inputs of 30, 30 and 29 features", "the same for K and V"]),
        ("phi3", "self_attn.qkv_proj", (44, 30), ["multiple of 8 (head_dim + v_head_dim, the queries set aside)"]),
        ("phi3", "self_attn.o_proj", (30, 27), ["multiple of 6 (num_heads)"]),
        ("gpt_neox", "attention.query_key_value", (96, 24), ["head_dim = 6; expected 4 (module.head_size)"]),
        ("gpt_neox", "attention.dense", (24, 36), ["head_dim = 3; expected 4"]),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(family, path, shape, words):
    model = tiny(family)
    owner, _, child = path.rpartition(".")
    setattr(model.layers[0].get_submodule(owner), child, nn.Linear(shape[1], shape[0], bias=False))
    message = refusal(model)
    assert "layers.0" in message
    for word in words:
        assert word in message


def test_heads_not_divisible_by_kv_heads_are_refused():
    model = tiny("llama", num_key_value_heads=3)
    for layer in model.layers:
        layer.self_attn.num_key_value_groups = "unstated"
        layer.self_attn.k_proj = nn.Linear(30, 16, bias=False)
        layer.self_attn.v_proj = nn.Linear(30, 16, bias=False)
    model.config.num_key_value_heads = 4
    message = refusal(model)
    assert "'layers.0.self_attn'" in message
    assert "6 query heads and 4 kv heads" in message


class TestRegisterLayout:
    """A user's own attention class."""

    class MyAttention(nn.Module):
        def __init__(self, heads=4, kv_heads=2, **names):
            super().__init__()
            self.num_heads, self.num_kv_heads = heads, kv_heads
            self.wq, self.wk = nn.Linear(10, heads * 3), nn.Linear(10, kv_heads * 3)
            self.wv, self.wo = nn.Linear(10, kv_heads * 5), nn.Linear(heads * 5, 10)

    finder = staticmethod(partial(split_layout, query="wq", key="wk", value="wv", output="wo"))

    @pytest.fixture(autouse=True)
    def _restore(self, monkeypatch):
        monkeypatch.setattr(locate, "_FINDERS", dict(locate._FINDERS))

    def test_layers_may_differ_and_d_v_is_not_d_k(self):
        locate.register_layout(self.MyAttention, self.finder)
        layouts = locate.find_attention(nn.ModuleList([self.MyAttention(), self.MyAttention(6, 3)]))
        assert [(item.num_heads, item.num_kv_heads) for item in layouts] == [(4, 2), (6, 3)]
        assert [(item.head_dim, item.v_head_dim, item.layer) for item in layouts] == [(3, 5, 0), (3, 5, 1)]

    def test_name_of_the_class_will_do(self):
        locate.register_layout(f"{__name__}.TestRegisterLayout.MyAttention", self.finder)
        assert len(locate.find_attention(nn.ModuleList([self.MyAttention()]))) == 1

    def test_before_it_the_class_is_refused_with_the_call_to_make(self):
        assert "register_layout(MyAttention, finder)" in refusal(nn.ModuleList([self.MyAttention()]))

    def test_missing_projection_is_named(self):
        locate.register_layout(self.MyAttention, split_layout)
        message = refusal(nn.ModuleList([self.MyAttention()]))
        assert "has no projection 'q_proj'; its children are: wq, wk, wv, wo" in message

    def test_head_count_that_nobody_states_is_not_guessed(self):
        locate.register_layout(self.MyAttention, self.finder)
        attention = self.MyAttention()
        del attention.num_heads
        assert "neither the number of heads nor head_dim is stated" in refusal(nn.ModuleList([attention]))

    def test_given_head_count_replaces_what_is_stated(self):
        locate.register_layout(self.MyAttention, partial(self.finder, num_heads=2, num_kv_heads=1))
        (layout,) = locate.find_attention(nn.ModuleList([self.MyAttention()]))
        assert (layout.num_heads, layout.num_kv_heads, layout.head_dim, layout.v_head_dim) == (2, 1, 6, 10)

    def test_finder_that_returns_something_else_is_refused(self):
        locate.register_layout(self.MyAttention, lambda module, name, config: None)
        assert "returned a NoneType; expected an AttentionLayout" in refusal(nn.ModuleList([self.MyAttention()]))

    def test_finder_that_misdescribes_the_stored_weight_is_refused(self):
        def transposed(module, name, config):
            return with_projection(self.finder(module, name, config), "V", head_axis=1, weight_shape=(10, 10))

        locate.register_layout(self.MyAttention, transposed)
        assert "the module itself gives" in refusal(nn.ModuleList([self.MyAttention()]))

    def test_finder_that_names_a_module_outside_is_refused(self):
        def elsewhere(module, name, config):
            return with_projection(
                self.finder(module, name, config), "V", module_name="nowhere", param_name="nowhere.w"
            )

        locate.register_layout(self.MyAttention, elsewhere)
        assert "has no projection 'nowhere'" in refusal(nn.ModuleList([self.MyAttention()]))

    def test_finder_must_be_callable(self):
        with pytest.raises(LayoutError, match="is a str; expected finder"):
            locate.register_layout(self.MyAttention, "split")

    def test_attention_inside_attention_is_refused(self):
        locate.register_layout(self.MyAttention, self.finder)
        outer = self.MyAttention()
        outer.inner = self.MyAttention()
        assert "'0.inner'" in (message := refusal(nn.ModuleList([outer])))
        assert "inside another attention module" in message


def wrapped_by_lora(base):
    """A stand-in for peft's wrapper of a linear layer: the same class name, the same place of the base layer."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.base_layer = base
            self.lora_a = nn.Linear(base.in_features, 2, bias=False, dtype=base.weight.dtype)
            self.lora_b = nn.Linear(2, base.out_features, bias=False, dtype=base.weight.dtype)

        def forward(self, inputs):
            return self.base_layer(inputs) + self.lora_b(self.lora_a(inputs))

    Linear.__module__, Linear.__qualname__ = "peft.tuners.lora.layer", "Linear"
    return Linear()


def test_of_a_projection_wrapped_by_lora_the_base_layer_is_measured():
    model = build_model("llama")
    for layer in model.model.layers:
        layer.self_attn.q_proj = wrapped_by_lora(layer.self_attn.q_proj)
    layout = locate.find_attention(model)[0]
    assert layout.projection("Q").param_name == "model.layers.0.self_attn.q_proj.base_layer.weight"
    batch = build_batch((5, 6, 4))
    results = {one.check: one for one in qkov.check_model(model, batch, batch, progress=False)}
    assert [str(one) for one in results.values() if one.status == "failed"] == []
    assert results["reference_gradients"].passed
    assert results["head_rows"].passed
    for check in ("gauge", "rotation", "relabelling", "zeroed_weights", "damping_scale", "noise_floor"):
        assert "adapters" in results[check].reason


def test_layers_that_differ_are_read_from_their_own_configurations():
    tiny_models.build(ARCHITECTURES["embedding_gemma2-text"])  # skips where this transformers has none
    wide = {"hidden_size": 30, "head_dim": 4, "global_head_dim": 8, "num_attention_heads": 6, "num_key_value_heads": 2}
    config = transformers.EmbeddingGemma2TextConfig(
        **wide,
        layer_types=["sliding_attention", "full_attention"],
        num_hidden_layers=2,
        intermediate_size=7,
        vocab_size=13,
        hidden_size_per_layer_input=3,
    )
    config._attn_implementation = "eager"
    model = draw_weights(transformers.EmbeddingGemma2TextModel(config).double(), seed=3).eval()
    layouts = locate.find_attention(model)
    assert [(one.num_kv_heads, one.head_dim, one.v_head_dim) for one in layouts] == [(2, 4, 4), (1, 8, 8)]
    for layout, width in zip(layouts, (4, 8), strict=True):
        prove_layout(model, layout, {"input_ids": torch.tensor([[3, 7, 4, 9]])}, num_heads=6, v_head_dim=width)
