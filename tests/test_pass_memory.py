"""The memory of a pass is known before it runs, from shapes alone."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from torch._subclasses.fake_tensor import FakeTensorMode

from qkov import linear_weights, losses, memory, pass_memory
from qkov.errors import BatchError
from qkov.layout import QKOVConfig
from tests.builders import build_batch, build_model, loss_of

LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux")
FAMILIES = ("llama", "gpt2", "phi3", "opt", "qwen3")


def traced(function, *arguments):
    with FakeTensorMode(allow_non_fake_inputs=True), pass_memory.LiveBytes() as live:
        kept = function(*arguments)
    return live.peak, live.now, kept


def test_storages_are_counted_while_they_live():
    def run():
        one = torch.empty(1000)  # 4000
        view = one[10:].reshape(-1, 10).T  # no bytes of its own
        two = view.double()  # 7920 more
        del one, view
        three = torch.empty(100, dtype=torch.bool)  # 100, where 4000 have gone
        return two, three

    peak, now, _ = traced(run)
    assert (peak, now) == (4000 + 7920, 7920 + 100)


def test_an_operation_in_place_takes_nothing():
    peak, now, _ = traced(lambda: torch.empty(1000).add_(1).mul_(2))
    assert peak == now == 4000


def test_the_backward_and_what_it_needs_is_counted():
    def run():
        x = torch.empty(100, requires_grad=True)
        (grad,) = torch.autograd.grad(x.exp().sum(), x)
        return grad

    peak, now, _ = traced(run)
    # x, exp(x), their sum, the gradient of exp(x) (one number expanded), its product with exp(x)
    assert 4 * (100 + 100 + 100) <= peak <= 4 * (100 + 100 + 100 + 4)
    assert now == 400


def test_what_depends_on_the_batch_alone_keeps_its_values():
    ids = torch.tensor([[1, 0, 1]])

    def run(weight):
        where = (ids != 0).nonzero()
        return where.shape, int(ids.sum()), bool(torch.arange(3).max() == 2), weight + len(where)

    with FakeTensorMode():
        weight = torch.empty(5)
    *values, _ = traced(run, weight)[2]
    assert values == [(2, 2), 2, True]


def test_random_numbers_are_not_drawn():
    before = torch.get_rng_state()
    traced(lambda: torch.rand(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_values_of_weights_are_refused():
    with FakeTensorMode():
        weight = torch.empty(5)
    with pytest.raises(RuntimeError):
        traced(lambda: weight.sum().item())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", [*FAMILIES, "bert"])
def test_families_are_traced_and_the_estimate_is_larger(family, attention, caplog):
    model = build_model(family, attention=attention, dtype=torch.float32)
    batch = build_batch((12, 7), padding="left" if family != "bert" else "right")
    found = [pass_memory.pass_bytes(model, batch, n, loss_fn=loss_of(family)) for n in (1, 2, 4)]
    assert not caplog.records
    assert 2 * found[0] <= found[1] < 4 * found[0]  # of several samples, the graph is kept to verify the first axis
    assert 1.9 * found[1] < found[2] < 2.1 * found[1]
    rows = {name: value[:1].repeat(4, 1) for name, value in batch.items()}
    assert found[2] < pass_memory.estimated_bytes(model, rows) < 4 * found[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_without_weights_will_do(family):
    model = build_model(family, dtype=torch.float32)
    with torch.device("meta"):
        empty = type(model)(model.config)
    batch = {"input_ids": torch.zeros(1, 12, dtype=torch.long)}
    assert pass_memory.pass_bytes(empty, batch, 3) == pass_memory.pass_bytes(model, batch, 3)
    assert all(one.is_meta for one in empty.parameters())
    with pass_memory.shaped(empty):
        config = QKOVConfig.from_model(empty)
        weights = linear_weights.find_linear_weights(empty, config, ("attention", "mlp"))
    assert weights == linear_weights.find_linear_weights(model, config, ("attention", "mlp"))
    assert pass_memory.pass_bytes(empty, batch, 1, config=config, weights=weights) > pass_memory.pass_bytes(
        empty, batch, 1, config=config
    )


def test_the_model_is_left_as_it_was():
    model = build_model("gpt2", dtype=torch.float32).train()
    model.lm_head.weight.requires_grad_(False)
    before = {name: (one, one._version, one.requires_grad) for name, one in model.state_dict(keep_vars=True).items()}
    pass_memory.pass_bytes(model, build_batch((9,)), 2)
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is one and one._version == version for name, (one, version, _) in before.items())
    assert all(one.requires_grad == flag for one, _, flag in before.values())
    assert all(module.training for module in model.modules())
    assert model.lm_head.weight is model.transformer.wte.weight
    assert not any(module._forward_hooks for module in model.modules())

    def failing(*_):
        raise BatchError("no")

    with pytest.raises(BatchError, match="no"):
        pass_memory.pass_bytes(model, build_batch((9,)), 2, loss_fn=failing)
    assert model.lm_head.weight is before["lm_head.weight"][0]


def test_longer_and_wider_passes_take_more():
    model = build_model("llama", dtype=torch.float32)
    short, long = ({"input_ids": torch.zeros(1, length, dtype=torch.long)} for length in (8, 16))
    assert 1.9 < pass_memory.pass_bytes(model, long, 1) / pass_memory.pass_bytes(model, short, 1) < 2.5
    half = build_model("llama", dtype=torch.bfloat16)
    assert pass_memory.pass_bytes(half, short, 1) < 0.8 * pass_memory.pass_bytes(model, short, 1)


def test_a_loss_that_asks_for_values_is_estimated_and_said(caplog):
    def loss(model, batch):
        found, tokens = losses.causal_lm_loss(model, batch)
        assert float(found.detach().sum()) >= 0
        return found, tokens

    model, batch = build_model("llama", dtype=torch.float32), build_batch((9,))
    with caplog.at_level(logging.WARNING, logger="qkov"):
        found = pass_memory.pass_bytes(model, batch, 2, loss_fn=loss)
    assert "a pass of LlamaForCausalLM cannot be traced" in caplog.text
    assert "memory is estimated" in caplog.text
    assert found == pass_memory.estimated_bytes(model, {"input_ids": torch.zeros(2, 9)})
    assert found > pass_memory.pass_bytes(model, batch, 2)


def test_experts_are_traced_or_estimated():
    config = transformers.MixtralConfig(
        vocab_size=23, hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, max_position_embeddings=32,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.MixtralForCausalLM(config)
    assert pass_memory.pass_bytes(model, build_batch((9,)), 2) > 18 * 4 * (23 + 2 * 2 * 16)


MEASURED = """
import sys, torch, transformers
from qkov import gradients, losses, memory, pass_memory, sample_rows
from qkov.layout import QKOVConfig
num_samples, length = map(int, sys.argv[1:])
torch.manual_seed(0)
model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=2, n_embd=384, n_head=6, vocab_size=8000)).eval()
config = QKOVConfig.from_model(model)
batch = {"input_ids": torch.randint(0, 8000, (num_samples, length))}
traced = pass_memory.pass_bytes(model, batch, num_samples)
def collect(batch):
    names = range(len(batch["input_ids"]))
    return gradients.collect_factors(model, batch, config, losses.causal_lm_loss, names, sample_rows.FirstAxis())
collect({"input_ids": batch["input_ids"][:, :4]})
memory.return_what_is_freed()
before = memory.resident_bytes()
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew
kept = collect(batch)
print(traced, memory.peak_resident_bytes() - before)
"""


@LINUX
@pytest.mark.parametrize(("num_samples", "length"), [(4, 256)])
def test_the_traced_peak_is_the_measured_one(num_samples, length):
    command = [sys.executable, "-c", MEASURED, str(num_samples), str(length)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    expected, measured = map(int, done.stdout.split())
    assert 0.9 * expected < measured < pass_memory.with_slack(expected)
    assert memory.resident_bytes() > 0
