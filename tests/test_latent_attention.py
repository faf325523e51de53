"""The partial map of multi-latent attention: what it covers, what it leaves out, and the wrong maps that are refused."""

import copy
import dataclasses
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import qkov
from qkov import inspection, latent_attention, locate
from qkov.checks import Case, run_check
from qkov.errors import LayoutError
from qkov.latent_attention import latent_layout
from tests.layout_proof import gradients, prove_layout
from validation.architectures import ARCHITECTURES, build, decouple
from validation.latent_architectures import NOPE, ROPE, VALUE

LATENT = [name for name, one in ARCHITECTURES.items() if one.packing == "multi-latent"]
SIZES = {"hidden": 10, "heads": 4, "nope": 3, "rope": 2, "value": 5, "q_rank": 7, "kv_rank": 6}


class LatentAttention(nn.Module):
    """Causal multi-latent attention without positions; no latent of queries where ``q_rank`` is None."""

    def __init__(self, hidden, heads, nope, rope, value, q_rank, kv_rank):
        super().__init__()
        self.num_heads, self.qk_nope_head_dim, self.v_head_dim, self.kv_lora_rank = heads, nope, value, kv_rank
        if q_rank is None:
            self.q_proj = nn.Linear(hidden, heads * (nope + rope))
        else:
            self.q_a_proj = nn.Linear(hidden, q_rank)
            self.q_b_proj = nn.Linear(q_rank, heads * (nope + rope))
        self.kv_a_proj_with_mqa = nn.Linear(hidden, kv_rank + rope)
        self.kv_b_proj = nn.Linear(kv_rank, heads * (nope + value))
        self.o_proj = nn.Linear(heads * value, hidden)

    def forward(self, x):
        asked = self.q_b_proj(self.q_a_proj(x)) if hasattr(self, "q_a_proj") else self.q_proj(x)
        latent, shared = self.kv_a_proj_with_mqa(x).tensor_split([self.kv_lora_rank], -1)
        queries = asked.unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        joint = self.kv_b_proj(latent).unflatten(-1, (self.num_heads, -1)).transpose(0, 1)
        keys, values = joint.tensor_split([self.qk_nope_head_dim], -1)
        keys = torch.cat([keys, shared.expand(self.num_heads, -1, -1)], -1)
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        weights = (queries @ keys.mT / queries.shape[-1] ** 0.5).masked_fill(later, -torch.inf).softmax(-1)
        return self.o_proj((weights @ values).transpose(0, 1).flatten(1))


def attention(**changes):
    torch.manual_seed(1)
    return LatentAttention(**(SIZES | changes)).double()


def located(module, config=None, **options):
    """The layout of a module that is named "a", as in ``nn.ModuleDict({"a": module})``."""
    return latent_layout(module, "a", config, **options)


def refusal(module, config=None, **options):
    with pytest.raises(LayoutError) as caught:
        located(module, config, **options)
    return str(caught.value)


class Wrapped(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.a = module

    def forward(self, x):
        return self.a(x)


def prove(module, layout):
    x = torch.randn(4, SIZES["hidden"], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    prove_layout(Wrapped(module), layout, {"x": x}, num_heads=module.num_heads, v_head_dim=module.v_head_dim)


@pytest.mark.parametrize("q_rank", [7, None])
def test_layout_is_what_the_attention_computes(q_rank):
    module = attention(q_rank=q_rank)
    layout = located(module)
    found = (layout.packing, layout.head_dim, layout.k_head_dim, layout.v_head_dim, layout.hidden_size)
    assert found == ("multi-latent", 5, 3, 5, 10)
    assert layout.num_heads == layout.num_kv_heads == 4
    assert [str(layout.projection(block).slice_of(1)) for block in "QKVO"] == [
        f"a.{'q_proj' if q_rank is None else 'q_b_proj'}.weight[5:10, :]",
        "a.kv_b_proj.weight[8:11, :]",
        "a.kv_b_proj.weight[11:16, :]",
        "a.o_proj.weight[:, 5:10]",
    ]
    prove(module, layout)


def test_without_a_shared_key_keys_are_as_wide_as_queries():
    module = attention(rope=0)
    layout = located(module)
    assert layout.k_head_dim == layout.head_dim == 3
    prove(module, layout)


@given(
    heads=st.integers(1, 4),
    nope=st.integers(1, 5),
    rope=st.integers(0, 4),
    value=st.integers(1, 5),
    q_rank=st.none() | st.integers(1, 6),
    kv_rank=st.integers(1, 6),
)
def test_slices_tile_the_up_projections_exactly_once(heads, nope, rope, value, q_rank, kv_rank):
    module = LatentAttention(9, heads, nope, rope, value, q_rank, kv_rank)
    layout = located(module)
    claims = {
        name: torch.zeros_like(parameter)
        for name, parameter in Wrapped(module).named_parameters()
        if name.startswith(("a.q_b_proj", "a.q_proj", "a.kv_b_proj", "a.o_proj.weight"))
    }
    for projection in layout.projections:
        for unit in range(projection.num_units):
            part = projection.slice_of(unit)
            claims[part.param_name][part.index] += 1
            if part.bias_name:
                claims[part.bias_name][part.bias_index] += 1
    assert all(bool((claim == 1).all()) for claim in claims.values())


def keys_and_values_exchanged(layout):
    """Each head's values before its keys."""
    key, value = layout.projection("K"), layout.projection("V")
    step, heads = key.width + value.width, range(layout.num_heads)
    return placed(layout, K=[step * head + value.width for head in heads], V=[step * head for head in heads])


def all_keys_before_all_values(layout):
    key, value = layout.projection("K"), layout.projection("V")
    return placed(
        layout,
        K=[key.width * head for head in range(layout.num_heads)],
        V=[layout.num_heads * key.width + value.width * head for head in range(layout.num_heads)],
    )


def key_heads_in_reverse(layout):
    return placed(layout, K=layout.projection("K").starts[::-1])


def two_queries_exchanged(layout):
    first, second, *rest = layout.projection("Q").starts
    return placed(layout, Q=[second, first, *rest])


def shared_rows_as_keys(layout):
    """The rotary rows of the latent's projection, dealt out to the heads."""
    key = dataclasses.replace(
        layout.projection("K"),
        module_name="a.kv_a_proj_with_mqa",
        param_name="a.kv_a_proj_with_mqa.weight",
        bias_name="a.kv_a_proj_with_mqa.bias",
        weight_shape=(6 + 4, 10),
        starts=tuple(6 + head for head in range(4)),
        width=1,
    )
    query, _, value, output = layout.projections
    return dataclasses.replace(layout, projections=(query, key, value, output), k_head_dim=1)


def placed(layout, **starts):
    parts = (dataclasses.replace(one, starts=tuple(starts.get(one.block, one.starts))) for one in layout.projections)
    return dataclasses.replace(layout, projections=tuple(parts))


@pytest.mark.parametrize(
    "wrong",
    [
        keys_and_values_exchanged,
        all_keys_before_all_values,
        key_heads_in_reverse,
        two_queries_exchanged,
        shared_rows_as_keys,
    ],
)
def test_the_experiment_refutes_wrong_maps(wrong):
    module = attention(rope=4)
    layout = located(module)
    prove(module, layout)
    with pytest.raises(AssertionError, match=r"^(head|[QKVO]) \d"):
        prove(module, wrong(layout))


def test_the_experiment_refutes_rotary_rows_before_the_plain_ones():
    """The map places a whole query; which of its rows meet the head's own key, only the experiment without K tells."""
    module = attention()
    layout = located(module)
    turned = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in (turned.q_b_proj.weight, turned.q_b_proj.bias):
            rows = parameter.unflatten(0, (4, 5))
            parameter.copy_(torch.cat([rows[:, 3:], rows[:, :3]], 1).flatten(0, 1))
    asked = turned.q_b_proj.forward

    def rotary_first(x):
        plain = asked(x).unflatten(-1, (4, 5))
        return torch.cat([plain[..., 2:], plain[..., :2]], -1).flatten(-2)

    turned.q_b_proj.forward = rotary_first
    x = torch.randn(4, 10, dtype=torch.float64)
    torch.testing.assert_close(turned(x), module(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(AssertionError, match=r"^head 0 without K: rows of Q"):
        prove(turned, layout)


@pytest.mark.parametrize("name", LATENT)
def test_every_family_is_cut_with_the_widths_of_its_configuration(name):
    model, _ = build(ARCHITECTURES[name])
    for layout in locate.find_attention(model, ARCHITECTURES[name].attention):
        rope = 0 if name == "glm5_next_text" else ROPE
        assert [one.width for one in layout.projections] == [NOPE + rope, NOPE, VALUE, VALUE]
        assert (layout.k_head_dim, layout.num_kv_heads) == (NOPE, layout.num_heads)


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3", "minicpm3"])
def test_queries_without_a_latent_are_found(name):
    architecture = ARCHITECTURES[name]
    build(architecture)  # skips where this transformers has none
    config = getattr(transformers, architecture.model_class).config_class(
        vocab_size=13,
        num_hidden_layers=1,
        intermediate_size=7,
        **architecture.sizes | architecture.options | {"q_lora_rank": None},
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = getattr(transformers, architecture.model_class)(config).double().eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    (layout,) = locate.find_attention(model)
    assert layout.projection("Q").module_name.endswith("q_proj")
    assert layout.hidden_size == 30
    prove_layout(model, layout, {"input_ids": torch.tensor([[3, 7, 4, 9]])}, num_heads=6, v_head_dim=VALUE)


@pytest.mark.parametrize("name", ["deepseek_v3", "axk2", "kimi_linear", "hy_v4"])
def test_the_latents_belong_to_every_head(name):
    """What the map leaves out, each head moves all of: no part of it could be given to one."""
    architecture = ARCHITECTURES[name]
    model, inputs = build(architecture)
    layout = locate.find_attention(model)[-1]
    decouple(model, architecture)
    down = f"{layout.module_name}.kv_a_proj_with_mqa.weight"
    shared = [down, down.replace("kv_a_proj_with_mqa", "q_a_proj")]
    for head in range(6):
        grads, _ = gradients(model, layout, slice(head * VALUE, (head + 1) * VALUE), inputs)
        for one in shared:
            if one in grads:
                assert bool((grads[one] != 0).any(1).all()), f"{one} by head {head}"


@pytest.mark.parametrize(
    ("wrong", "caught_by"),
    [(keys_and_values_exchanged, "zeroed_weights"), (all_keys_before_all_values, "head_rows")],
)
def test_prove_layout_refuses_a_wrong_map_of_a_family(wrong, caught_by, monkeypatch):
    model, inputs = build(ARCHITECTURES["youtu"])
    kind = "transformers.models.youtu.modeling_youtu.YoutuAttention"
    results = qkov.prove_layout(model, inputs, progress=False)
    assert [result.status for result in results] == ["passed"] * len(results)

    monkeypatch.setitem(locate._FINDERS, kind, lambda *arguments: wrong(latent_layout(*arguments)))
    with pytest.raises(LayoutError, match=caught_by):
        qkov.prove_layout(model, inputs, progress=False)


def test_zeroed_keys_leave_the_queries_of_the_shared_key(monkeypatch):
    """A layout that hides that its keys are narrower expects queries to fall silent with them, and is refused."""
    model, _ = build(ARCHITECTURES["deepseek_v3"])
    batch = {"input_ids": torch.tensor([[3, 7, 4, 9], [8, 3, 11, 6]])}
    case = Case("deepseek_v3", model, batch, batch)
    assert run_check("zeroed_weights", case).passed
    assert run_check("gauge", case).passed
    monkeypatch.setattr(
        "qkov.layout.QKOVConfig.from_model",
        lambda model, attention=None: qkov.QKOVConfig(tuple(map(pretending, locate.find_attention(model, attention)))),
    )
    assert run_check("zeroed_weights", case).status == "failed"


def pretending(layout):
    object.__setattr__(layout, "k_head_dim", layout.head_dim)
    return layout


@pytest.mark.parametrize("name", ["glm_moe_dsa", "hy_v4"])
def test_proof_holds_where_an_indexer_leaves_positions_out(name):
    """A key that no query chose moves nothing; query_position failed on it before it tried other positions."""
    architecture = ARCHITECTURES[name]
    model, inputs = build(dataclasses.replace(architecture, options=architecture.options | {"index_topk": 3}))
    for layout in locate.find_attention(model):
        prove_layout(model, layout, inputs, num_heads=6, v_head_dim=VALUE)
    generator = torch.Generator().manual_seed(1)
    batch = {"input_ids": torch.randint(3, 13, (3, 6), generator=generator)}
    assert [one.status for one in qkov.prove_layout(model, batch, progress=False)] == ["passed"] * 6


def test_what_all_heads_share_is_listed_with_what_it_does():
    model, _ = build(ARCHITECTURES["deepseek_v32"])
    config = qkov.QKOVConfig.from_model(model)
    found = inspection.describe_model(model, config)
    assert found["layers"][0]["k_head_dim"] == NOPE
    rest = {
        (entry["param_name"].removeprefix("model.layers.0.self_attn."), entry["part"]): entry["reason"]
        for entry in found["not_covered"]
        if entry["layer"] == 0
    }
    assert rest["q_a_proj.weight", None] == "makes the latent that the queries of all heads are read from"
    assert rest["kv_a_proj_with_mqa.weight", (0, 8)] == (
        "makes the latent that the keys and values of all heads are read from"
    )
    assert rest["kv_a_proj_with_mqa.weight", (8, 12)] == "makes the rotary part of the key, one for all heads"
    assert "normalises the latent" in rest["kv_a_layernorm.weight", None]
    assert rest["indexer.wk.weight", None] == "chooses the positions that all heads attend to"
    assert not any(name.startswith(("q_b_proj", "kv_b_proj", "o_proj")) for name, _ in rest)
    summary = found["summary"]
    missing = sum(entry["size"] for entry in found["not_covered"])
    owned = sum(model.get_parameter(part.param_name)[part.index].numel() for *_, part in qkov.QKOVIndexer(config))
    assert summary["num_parameters_in_heads"] == summary["num_parameters_in_attention"] - missing == owned
    assert "head_dim 9, k_head_dim 5, v_head_dim 3, hidden_size 30" in inspection.layout_table(found["layers"])
    assert "k_head_dim=5" in repr(config)


def test_a_result_says_what_its_keys_are(tmp_path):
    model, _ = build(ARCHITECTURES["minicpm3"])
    collector = qkov.FisherCollector()
    batch = {"input_ids": torch.tensor([[3, 7, 4, 9], [8, 3, 11, 6]])}
    for task in ("a", "b"):
        collector.collect_fisher(model, batch, task, progress=False)
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
    heatmap = metric.compute_heatmap("a", "b", progress=False)
    assert heatmap.attributes["slice_note"] == latent_attention.K_NOTE
    assert "without the rotary part" in repr(heatmap)
    assert "without the rotary part" in heatmap._repr_html_()
    heatmap.save(tmp_path / "scores")
    (saved,) = tmp_path.iterdir()
    assert qkov.load_heatmap(saved).attributes["slice_note"] == latent_attention.K_NOTE
    model, _ = build(ARCHITECTURES["llama"])
    collector = qkov.FisherCollector()
    for task in ("a", "b"):
        collector.collect_fisher(model, batch, task, progress=False)
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
    assert "slice_note" not in metric.compute_heatmap("a", "b", progress=False).attributes


def test_two_attention_modules_of_a_layer_are_two_kinds():
    architecture = ARCHITECTURES["longcat_flash"]
    options = architecture.options | {"num_hidden_layers": 6, "num_layers": 3}
    model, inputs = build(dataclasses.replace(architecture, options=options))
    with pytest.raises(LayoutError, match="has 2 kinds of attention"):
        locate.find_attention(model)
    for place in (0, 1):
        layouts = locate.find_attention(model, f"model.layers.*.self_attn.{place}")
        assert [layout.layer for layout in layouts] == [0, 1, 2]
        prove_layout(model, layouts[1], inputs, num_heads=6, v_head_dim=VALUE)


def test_layers_without_rotary_positions_have_wider_keys():
    architecture = ARCHITECTURES["mistral_large4_text"]
    options = architecture.options | {"kv_source_layers": [0, 1], "no_rope_layers": [1, 0]}
    model, inputs = build(dataclasses.replace(architecture, options=options))
    layouts = locate.find_attention(model)
    assert qkov.QKOVConfig(layouts).k_head_dim == (NOPE, NOPE + ROPE)
    for layout in layouts:
        prove_layout(model, layout, inputs, num_heads=6, v_head_dim=VALUE)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_attention_heads": 2}, "num_heads = 4; expected 2 (config.num_attention_heads)"),
        ({"num_key_value_heads": 2}, "num_kv_heads = 4; expected 2 (config.num_key_value_heads)"),
        ({"num_key_value_groups": 2}, "num_key_value_groups = 1; expected 2"),
        ({"qk_head_dim": 6}, "qk_head_dim = 5; expected 6 (config.qk_head_dim)"),
        ({"qk_nope_head_dim": 4}, "qk_nope_head_dim = 3; expected 4"),
        ({"qk_rope_head_dim": 3}, "qk_rope_head_dim = 2; expected 3"),
        ({"v_head_dim": 4}, "v_head_dim = 5; expected 4"),
        ({"kv_lora_rank": 5}, "kv_lora_rank = 6; expected 5"),
        ({"q_lora_rank": 8}, "q_lora_rank = 7; expected 8"),
    ],
)
def test_statements_that_contradict_the_weights_are_refused(config, words):
    assert located(attention(), SimpleNamespace(num_attention_heads=4, head_dim=2)).num_heads == 4
    message = refusal(attention(), SimpleNamespace(**config))
    assert words in message
    assert "'a' (tests.test_latent_attention.LatentAttention)" in message


@pytest.mark.parametrize(
    ("path", "shape", "words"),
    [
        ("o_proj", (10, 21), "positive multiple of 4 (num_heads)"),
        ("q_b_proj", (22, 7), "positive multiple of 4 (num_heads)"),
        ("q_b_proj", (8, 7), "has 2 rows for each and 'a.kv_b_proj' 3 for keys"),
        ("kv_b_proj", (20, 6), "0 for keys beside 5 for values"),
        ("q_b_proj", (24, 7), "expected 6 that 'a.kv_b_proj' reads and 3 that queries meet"),
        ("q_b_proj", (20, 9), "makes 7 numbers and 'a.q_b_proj' reads 9"),
        ("kv_a_proj_with_mqa", (8, 9), "makes 8 numbers of 9"),
        ("kv_a_proj_with_mqa", (9, 10), "makes 9 numbers of 10"),
    ],
)
def test_weights_that_contradict_each_other_are_refused(path, shape, words):
    module = attention()
    setattr(module, path, nn.Linear(shape[1], shape[0]))
    assert words in refusal(module)


def test_a_number_of_heads_is_needed_and_may_be_registered():
    module = attention()
    del module.num_heads
    assert "no number of heads is stated" in refusal(module)
    assert located(module, num_heads=4).num_heads == 4
    assert "cannot be cut" in refusal(module, num_heads=3)


def test_a_missing_projection_is_named():
    module = attention()
    del module.kv_b_proj
    assert "no projection 'kv_b_proj'" in refusal(module)
    assert located(attention(), latent=None).k_head_dim == 3


def test_register_layout_takes_it():
    locate.register_layout(LatentAttention, partial(latent_layout, num_heads=4))
    try:
        layout, other = locate.find_attention(nn.ModuleList([attention(), attention(q_rank=None)]))
    finally:
        del locate._FINDERS["tests.test_latent_attention.LatentAttention"]
    assert (layout.layer, layout.k_head_dim, other.layer) == (0, 3, 1)


@pytest.mark.parametrize("width", [-1, 6])
def test_a_key_head_is_no_wider_than_its_query(width):
    layout = located(attention())
    with pytest.raises(LayoutError, match=f"a key head is {width} wide; expected 1 to head_dim = 5"):
        dataclasses.replace(layout, k_head_dim=width)
