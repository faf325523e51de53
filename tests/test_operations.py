"""What a pass computes is counted from shapes: operations, what projections read, tokens with a gradient."""

import pytest
import torch
import transformers

import qkov
from qkov import errors, linear_weights, operations
from tests.builders import build_model

TOKENS = 12


def traced(model, tokens=TOKENS):
    hollow = operations.hollow(model)
    config = qkov.QKOVConfig.from_model(hollow)
    weights = linear_weights.find_linear_weights(hollow, config, "attention")
    return operations.trace_pass(hollow, config, [one.module_name for one in weights], tokens)


def counted_by_hand(model):
    """Every matrix forward and backward, but backward not below the first projections; two and five products of attention."""
    config = model.config
    linear = {name: one.weight.numel() for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    first = sum(
        size for name, size in linear.items() if name.endswith(tuple(f"layers.0.self_attn.{one}_proj" for one in "qkv"))
    )
    products = 7 * config.num_hidden_layers * config.num_attention_heads * TOKENS**2 * config.head_dim
    return 2 * TOKENS * (2 * sum(linear.values()) - first) + 2 * products


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_operations_are_those_of_matrices_and_attention(family, monkeypatch):
    model = build_model(family, dtype=torch.float32)
    angles = 2 * TOKENS * model.config.head_dim // 2  # of positions: a product of matrices before transformers 5.1
    assert traced(model).operations - counted_by_hand(model) in (0, angles)
    monkeypatch.setattr(operations, "_ATTENTION", {})  # as torch counts by itself
    assert traced(model).operations - counted_by_hand(model) not in (0, angles)


def test_operations_of_llama_are_near_four_times_parameters_and_tokens():
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(num_hidden_layers=8))
    without_embeddings = sum(one.numel() for one in model.parameters()) - model.get_input_embeddings().weight.numel()
    ratio = traced(model, 64).operations / (4 * without_embeddings * 64)
    assert 0.95 < ratio < 1.02


def test_modules_that_read_one_tensor_are_told():
    found = traced(build_model("llama")).readings
    q, k, v, o = (found[f"model.layers.1.self_attn.{one}_proj"] for one in "qkvo")
    assert q.tensor == k.tensor == v.tensor != o.tensor
    assert q.tensor != found["model.layers.0.self_attn.q_proj"].tensor
    assert (q.tokens, q.d_in, q.d_out, k.d_out) == (TOKENS, 24, 24, 8)


def test_the_last_token_of_a_causal_loss_has_no_gradient():
    assert traced(build_model("gpt2")).num_tokens == TOKENS - 1
    assert traced(build_model("bert")).num_tokens == TOKENS


def test_a_hollow_model_takes_no_memory_and_stays_tied():
    model = build_model("gpt2")
    hollow = operations.hollow(model, torch.bfloat16)
    assert all(one.untyped_storage().nbytes() == 2 for one in hollow.parameters())
    assert [one.shape for one in hollow.parameters()] == [one.shape for one in model.parameters()]
    assert hollow.lm_head.weight is hollow.transformer.wte.weight
    assert next(model.parameters()).dtype == torch.float64


def test_a_model_that_looks_at_values_is_refused(monkeypatch):
    model = build_model("llama")
    forward = type(model.model.norm).forward
    monkeypatch.setattr(type(model.model.norm), "forward", lambda self, x: forward(self, x) if x.sum() > 0 else x)
    with pytest.raises(errors.LayoutError, match="cannot be planned from its configuration alone"):
        traced(model)
