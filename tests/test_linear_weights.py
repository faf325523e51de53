"""Which weights are found beside those of heads, what their channels are, and what is left out and why."""

import dataclasses

import pytest
import torch
import transformers
from torch import nn

import qkov
from qkov import checks, linear_weights
from qkov.errors import LayoutError, ModuleReuseError, NonFiniteError, OptionError, PrecisionError
from tests.builders import FAMILIES, VOCABULARY, build_batch, build_model, collect, loss_of
from validation.architectures import ARCHITECTURES, build

MLP_ROLES = {
    "llama": {"gate_proj": "in", "up_proj": "in", "down_proj": "out"},
    "gpt2": {"c_fc": "in", "c_proj": "out"},
    "opt": {"fc1": "in", "fc2": "out"},
    "gpt_neox": {"dense_h_to_4h": "in", "dense_4h_to_h": "out"},
    "phi3": {"gate_up_proj": "in", "down_proj": "out"},
    "qwen2": {"gate_proj": "in", "up_proj": "in", "down_proj": "out"},
    "qwen3": {"gate_proj": "in", "up_proj": "in", "down_proj": "out"},  # 20 -> 20 -> 20: told by order
    "bert": {"intermediate.dense": "in", "output.dense": "out"},
}


def find(model, include=("attention", "mlp"), attention=None):
    return linear_weights.find_linear_weights(model, qkov.QKOVConfig.from_model(model, attention=attention), include)


def explain(model, include):
    return linear_weights.explain_left_out(model, qkov.QKOVConfig.from_model(model), include)


@pytest.mark.parametrize("family", FAMILIES)
def test_feed_forward_parts_are_found_with_their_roles(family):
    found = [one for one in find(build_model(family)) if one.kind == "mlp"]
    roles = MLP_ROLES[family]
    assert [one.layer for one in found] == [layer for layer in range(2) for _ in roles]
    for one, (ending, role) in zip(found, list(roles.items()) * 2, strict=True):
        assert one.module_name.endswith(ending)
        assert one.role == role
        assert one.out_axis == (1 if family == "gpt2" else 0)


@pytest.mark.parametrize("width", [20, 24, 30])
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_roles_do_not_depend_on_the_width_between(family, width):
    found = find(build_model(family, intermediate_size=width), "mlp")
    assert [one.role for one in found] == list(MLP_ROLES[family].values()) * 2
    assert {one.num_channels for one in found} == {width}


@pytest.mark.parametrize("family", FAMILIES)
def test_zeroing_a_channel_of_one_side_makes_the_other_side_deaf(family):
    """What a channel is, by experiment: without the column that writes it, nothing reads its row's gradient."""
    model = build_model(family, layers=1)
    found = [one for one in find(model) if one.kind == "mlp"]
    writer = next(one for one in found if one.role == "out")
    with torch.no_grad():
        model.get_parameter(writer.param_name).select(writer.channel_axis, 3).zero_()
    collector = collect(model, build_batch((5, 7)), loss_fn=loss_of(family), weights="mlp")
    grads = collector.get_sample_gradients("a", 0)
    for reader in (one for one in found if one.role == "in" and one.num_channels == writer.num_channels):
        sizes = grads[reader.param_name].abs().amax(1 - reader.channel_axis)
        assert sizes[3] == 0
        assert (sizes != 0).sum() > len(sizes) // 3  # an activation switches some channels off


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_heads_are_those_of_the_layout(family):
    model = build_model(family)
    config = qkov.QKOVConfig.from_model(model)
    found = {one.param_name: one for one in find(model, "attention")}
    projections = [projection for layout in config.layers for projection in layout.projections]
    assert list(found) == list(dict.fromkeys(projection.param_name for projection in projections))
    for projection in projections:
        one = found[projection.param_name]
        assert (one.kind, one.role) == ("attention", "out" if projection.block == "O" else "in")
        assert one.channel_axis == projection.head_axis
        assert one.weight_shape == tuple(model.get_parameter(one.param_name).shape)


def test_all_is_every_linear_module():
    model = build_model("llama")
    expected = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    found = find(model, "all")
    assert {one.param_name for one in found} == expected
    assert len(found) == len(expected)
    head = found[-1]
    assert (head.param_name, head.kind, head.layer, head.role) == ("lm_head.weight", "other", None, "other")


def test_modules_are_chosen_by_name():
    names = ("lm_head", "model.layers.1.mlp.up_proj")
    assert [one.module_name for one in find(build_model("llama"), names)] == [names[1], names[0]]
    both = find(build_model("llama"), ("attention", "lm_head"))
    assert [one.kind for one in both] == ["attention"] * 8 + ["other"]


def test_cross_attention_is_no_feed_forward_part():
    config = transformers.T5Config(vocab_size=20, d_model=16, d_kv=4, d_ff=12, num_layers=2, num_heads=4)
    model = transformers.T5ForConditionalGeneration(config)
    found = find(model, attention="decoder.block.*.layer.0.SelfAttention")
    assert [one.module_name for one in found if one.kind == "mlp"] == [
        f"decoder.block.{layer}.layer.2.DenseReluDense.{name}" for layer in range(2) for name in ("wi", "wo")
    ]


@pytest.mark.parametrize("name", ["longcat_flash", "deepseek_v3", "minicpm3", "gemma3"])
def test_parts_of_attention_are_no_feed_forward_part(name):
    architecture = ARCHITECTURES[name]
    model, _ = build(architecture)
    found = find(model, attention=architecture.attention)
    assert not [one.module_name for one in found if one.kind == "mlp" and "attn" in one.module_name]
    assert {one.kind for one in found} == {"attention", "mlp"}


def test_feed_forward_parts_in_a_list_of_their_own_are_said_to_be_left_out():
    model, _ = build(ARCHITECTURES["xlm"])
    assert {one.kind for one in find(model)} == {"attention"}
    reasons = explain(model, ("attention", "mlp"))
    assert "give its module's name" in reasons["ffns.0.lin1.weight"]
    assert find(model, "ffns.0.lin1")[0].kind == "other"


def test_experts_in_three_axes_are_left_out_with_the_reason():
    config = transformers.MixtralConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=12, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=3,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config)
    assert {one.kind for one in find(model)} == {"attention"}
    reasons = explain(model, ("attention", "mlp"))
    assert "3 axes" in reasons["model.layers.0.mlp.experts.gate_up_proj"]
    assert "MixtralTopKRouter" in reasons["model.layers.0.mlp.gate.weight"]
    assert "model.embed_tokens.weight" not in reasons
    with pytest.raises(LayoutError, match=r"names no weight.*3 axes"):
        find(model, "mlp")
    collector = collect(model, build_batch((5,)), weights="mlp")
    assert collector.left_out.keys() == reasons.keys()


def test_a_tied_head_is_left_out_of_all_and_refused_by_name():
    model = build_model("gpt2")
    assert "lm_head.weight" not in {one.param_name for one in find(model, "all")}
    assert explain(model, "all")["transformer.wte.weight"] == (
        "tied or shared: 'transformer.wte.weight', 'lm_head.weight' are one parameter"
    )
    with pytest.raises(LayoutError, match=r"'lm_head.weight' is tied: 'transformer.wte.weight' and 'lm_head.weight'"):
        find(model, "lm_head")


@pytest.mark.parametrize("how", ["parameter", "memory", "module"])
def test_weights_that_two_layers_share_are_left_out(how):
    model = build_model("llama")
    first, second = (model.model.layers[layer].mlp for layer in range(2))
    if how == "parameter":
        second.up_proj.weight = first.up_proj.weight
    elif how == "memory":
        second.up_proj.weight.data = first.up_proj.weight.data
    else:
        second.up_proj = first.up_proj
    found = {one.module_name for one in find(model, "mlp")}
    assert {name for name in found if "up_proj" in name} == set()
    assert len(found) == 4
    with pytest.raises(LayoutError, match="is tied"):
        find(model, "model.layers.0.mlp.up_proj")


@pytest.mark.parametrize("include", ["heads", (), ("mlp", "nowhere"), (3,)])
def test_what_is_no_group_and_no_module_is_refused(include):
    with pytest.raises(OptionError, match=r"expected words of 'attention', 'mlp', 'all' or names of linear modules"):
        find(build_model("llama"), include)


def test_a_module_that_is_not_linear_is_refused():
    with pytest.raises(LayoutError, match=r"expected exactly torch\.nn\.Linear"):
        find(build_model("llama"), "model.norm")


@pytest.mark.parametrize("change", [{"kind": "ffn"}, {"role": "up"}, {"out_axis": 2}, {"weight_shape": (3,)}])
def test_a_weight_without_meaning_is_refused(change):
    one = find(build_model("llama"))[0]
    with pytest.raises(LayoutError):
        dataclasses.replace(one, **change)


# The checks that protect attention projections protect these


class Planted(nn.Module):
    """A feed-forward part that does something to its gate projection."""

    def __init__(self, mlp, act):
        super().__init__()
        self.mlp, self.act = mlp, act

    def forward(self, x):
        return self.act(self.mlp, x)


def _twice(mlp, x):
    return mlp(x) + mlp.gate_proj(x).sum() * 0


def _never(mlp, x):
    return mlp.down_proj(mlp.up_proj(x))


def _changed_in_place(mlp, x):
    x = x.clone()
    gate, up = mlp.gate_proj(x), mlp.up_proj(x)
    x.mul_(2)
    return mlp.down_proj(gate * up)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (_twice, r"gate_proj' ran 2 times"),
        (_never, r"gate_proj' ran 0 times"),
        (_changed_in_place, r"the input of projection 'model.layers.1.mlp.mlp.gate_proj' was changed in place"),
    ],
)
def test_a_module_that_breaks_the_rules_is_refused(act, message):
    model = build_model("llama")
    model.model.layers[1].mlp = Planted(model.model.layers[1].mlp, act)
    with pytest.raises(ModuleReuseError, match=message):
        collect(model, build_batch((5, 7)), weights="mlp")
    collect(model, build_batch((5, 7)))  # attention is not touched by it


def test_a_gradient_that_is_not_finite_is_refused():
    model = build_model("llama")
    down = model.model.layers[1].mlp.down_proj
    down.register_forward_pre_hook(lambda _module, args: args[0].register_hook(lambda grad: grad * torch.nan) and None)
    with pytest.raises(
        NonFiniteError, match=r"sample 0 has a NaN or infinite gradient at 'model.layers.1.mlp.up_proj.weight'"
    ):
        qkov.collect_fisher_diagonal(model, build_batch((5,)), "a", weights="model.layers.1.mlp.up_proj")


def test_float16_is_refused():
    model = build_model("llama")
    mlp = model.model.layers[1].mlp
    mlp.half()
    mlp.register_forward_pre_hook(lambda _module, args: (args[0].half(),))
    mlp.register_forward_hook(lambda _module, _args, output: output.double())
    with pytest.raises(PrecisionError, match=r"layers.1.mlp.gate_proj' runs in float16"):
        collect(model, build_batch((5,)), weights="mlp")


def test_the_law_of_the_diagonal_is_tried_on_heads_where_a_feed_forward_part_cannot_be_collected():
    model, batch = build_model("llama"), build_batch((5, 7))
    whole = checks.run_check("fisher_diagonal", checks.Case("llama", model, batch, batch))
    model.model.layers[1].mlp = Planted(model.model.layers[1].mlp, _never)
    heads = checks.run_check("fisher_diagonal", checks.Case("llama", model, batch, batch))
    assert (whole.status, heads.status) == ("passed", "passed")
    assert 0 < heads.compared < whole.compared
