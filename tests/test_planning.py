"""Plans: from shapes alone, near what is measured, and what they say where a budget is too small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import qkov
from qkov import errors, gradients, linear_weights, operations, pass_memory, peaks, planning
from tests.builders import build_batch, build_model

ROOT = Path(__file__).resolve().parent.parent
SIZES = {"samples_a": 7, "samples_b": 5, "tokens": 12, "timing": "skip"}
LLAMA_3_8B = transformers.LlamaConfig(
    vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
    num_key_value_heads=8, max_position_embeddings=8192,
)  # fmt: skip


def on_meta(config):
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config)


@pytest.fixture(scope="module")
def traced_8b():
    """Llama-3-8B and its pass, traced once."""
    model = operations.hollow(on_meta(LLAMA_3_8B))
    config = qkov.QKOVConfig.from_model(model)
    names = [one.module_name for one in linear_weights.find_linear_weights(model, config, "attention")]
    return model, operations.trace_pass(model, config, names, 512)


@pytest.fixture
def llama_3_8b(traced_8b, monkeypatch):
    monkeypatch.setattr(operations, "trace_pass", lambda *_: traced_8b[1])
    return traced_8b[0]


@pytest.fixture
def quick(monkeypatch):
    """Passes whose trace takes no time: 1 MB a sample."""
    monkeypatch.setattr(pass_memory, "pass_bytes", lambda model, batch, count, **_: count * 10**6)


def test_counts_are_those_of_a_collection(monkeypatch):
    model = build_model("llama", dtype=torch.float32)
    found = qkov.plan(model, **SIZES | {"samples_a": 60, "samples_b": 50, "keep": "disk"})
    made, original = [], gradients.collect_factors
    monkeypatch.setattr(gradients, "collect_factors", lambda *a, **k: made.append(1) or original(*a, **k))
    collector = qkov.FisherCollector()
    for task, count in (("a", 60), ("b", 50)):
        collector.collect_fisher(model, build_batch((12,) * count), task, progress=False)
    assert (found.num_passes, found.samples_per_pass) == (len(made), 42)
    assert found.num_passes != -(-110 // 42)  # as if the tasks shared a pass
    heatmap = qkov.QKOVInterferenceMetric(collector.config, collector).compute_heatmap("a", "b", progress=False)
    assert found.score_bytes == sum(array.nbytes for array in heatmap.arrays.values())
    assert found.num_parameters == sum(one.numel() for one in model.parameters())


@pytest.mark.parametrize(
    ("num_samples", "scored"), [(100, 7), (1000, 2.2 * 60), (10_000, 2 * 3600)], ids=["100", "1,000", "10,000"]
)
def test_llama_3_8b_is_planned_as_on_paper(llama_3_8b, quick, num_samples, scored):
    """performance goals: 121 GB of bf16 factors, 1.07 TB of gradients; 7 s, 2.2 min, 2 h of scoring at 42e12 a second."""
    found = qkov.plan(
        llama_3_8b, samples_a=num_samples, samples_b=num_samples, tokens=512, dtype="bfloat16", device="cuda", rate=42e12,
    )  # fmt: skip
    assert found.seconds.materialising + found.seconds.scoring == pytest.approx(scored, rel=0.05)
    assert found.held_bytes == pytest.approx(121e9 * num_samples / 100, rel=0.01)
    assert 200 * found.gradient_bytes == pytest.approx(1.07e12, rel=0.01)
    # float64, K and V once per kv head; the paper's 1 TB for 10,000 + 10,000 is float32
    assert found.score_bytes == 8 * num_samples**2 * 32 * (32 + 8 + 8 + 32)
    assert found.collection_operations == pytest.approx(4 * 7.5e9 * 512 * 2 * num_samples, rel=0.05)


def test_llama_3_8b_at_50e12_operations_a_second_is_within_a_fifth(llama_3_8b, quick):
    found = qkov.plan(llama_3_8b, samples_a=100, samples_b=100, tokens=512, dtype="bfloat16", device="cuda", rate=50e12)
    assert found.seconds.materialising + found.seconds.scoring == pytest.approx(7, rel=0.2)
    in_float32 = qkov.plan(llama_3_8b, samples_a=100, samples_b=100, tokens=512, device="cuda", rate=50e12)
    assert in_float32.held_bytes == 2 * found.held_bytes


MEASURE = """
import json, torch, transformers, qkov
from validation import plans
torch.set_num_threads(1)
config = transformers.GPT2Config(n_layer=2, n_embd=256, n_head=4, vocab_size=2000, bos_token_id=0, eos_token_id=0)
auto = transformers.AutoModelForCausalLM  # imported here: version 5.0 cannot be on the meta device
with torch.device("meta"):
    shapes = auto.from_config(config)
found = qkov.plan(shapes, samples_a=80, samples_b=80, tokens=128, timing="skip")
model = auto.from_config(config)
held = qkov.FisherCollector()
_, collecting = plans._peak(lambda: plans._collect(held, model, 80, 128))
_, scoring = plans._peak(lambda: plans._score(held))
print(json.dumps([found.collection_peak, collecting, found.scoring_peak, scoring, found.held_bytes]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux")
def test_peaks_are_within_a_fifth_of_what_is_measured():
    done = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True, check=True)
    collecting, measured, scoring, measured_scoring, held = json.loads(done.stdout)
    assert collecting == pytest.approx(measured, rel=0.2)
    assert scoring == pytest.approx(measured_scoring, rel=0.2)
    assert collecting - held != pytest.approx(measured, rel=0.2)  # a plan that forgets the samples


def test_time_scales_with_the_work(quick):
    model = build_model("llama")
    one, many = (
        planning.plan(model, samples_a=n, samples_b=n, tokens=12, rate=1e9).seconds for n in (10, 30)
    )  # fmt: skip
    assert many.collection == pytest.approx(3 * one.collection)
    assert many.materialising == pytest.approx(3 * one.materialising)
    assert many.scoring == pytest.approx(9 * one.scoring)
    assert many.total == many.collection + many.materialising + many.scoring
    assert planning.plan(model, **SIZES | {"timing": "measure"}, device="cuda").seconds is None  # not found out here


def test_part_of_the_layers_takes_part_of_the_scores(quick):
    model = build_model("llama", layers=4)
    whole, part = qkov.plan(model, **SIZES), qkov.plan(model, **SIZES, layers=[1])
    assert (4 * part.score_bytes, 4 * part.scoring_operations) == (whole.score_bytes, whole.scoring_operations)
    assert part.collection_operations == whole.collection_operations
    with pytest.raises(errors.SliceIndexError):
        qkov.plan(model, **SIZES, layers=[4])


def test_a_budget_makes_passes_smaller_and_is_kept(monkeypatch, quick):
    monkeypatch.setattr(peaks, "base_bytes", lambda *_: 0)
    model = build_model("llama", dtype=torch.float32)
    sizes = {**SIZES, "samples_a": 42, "samples_b": 42}
    free = qkov.plan(model, **sizes)
    assert (free.samples_per_pass, free.fits, free.advice) == (42, None, ())
    least = free.collection_peak - int(20.5e6 * pass_memory.SLACK)
    tight = qkov.plan(model, **sizes, memory_budget=least)
    assert tight.samples_per_pass == 21  # half of 42
    assert tight.collection_peak <= least


def test_a_budget_that_holds_no_pass_is_an_error(monkeypatch, quick):
    monkeypatch.setattr(peaks, "base_bytes", lambda *_: 0)
    model = build_model("llama", dtype=torch.float32)
    with pytest.raises(
        errors.MemoryLimitError, match=r"1 MB; a pass of a single sample of 12 tokens takes \d.*bfloat16"
    ):
        qkov.plan(model, **SIZES, memory_budget="1MB", keep="disk")


def advised(monkeypatch, budget, base=0, **changes):
    monkeypatch.setattr(peaks, "base_bytes", lambda *_: base)
    model = build_model("llama", dtype=torch.float32, layers=4)
    found = qkov.plan(model, **{**SIZES, "samples_a": 4000, "samples_b": 4000, **changes}, memory_budget=budget)
    assert found.fits is False
    return " ".join(found.advice)


def test_advice_is_what_would_help(monkeypatch, quick):
    # 8,000 samples: 80 MB of factors, 16 x 4,000^2 x 64 bytes = 16 GB of scores
    assert "keep them on disk" in advised(monkeypatch, "100MB")
    assert "at most 2 of 4 layers at a time" in advised(monkeypatch, "10GB", keep="disk")
    assert "do not fit: score fewer samples" in advised(monkeypatch, "2GB", keep="disk")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples_a": 0}, "samples_a is 0"),
        ({"tokens": -3}, "tokens is -3"),
        ({"samples_b": True}, "samples_b is True"),
        ({"tokens": 33}, r"'transformer.wpe' holds 0 to 31"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"keep": "cloud"}, "keep"),
        ({"timing": "guess"}, "timing"),
        ({"dtype": "float8"}, "dtype"),
        ({"device": "abacus"}, "device"),
        ({"memory_budget": "much"}, "memory_budget"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_what_has_no_meaning_is_refused(change, message):
    with pytest.raises(errors.OptionError, match=message) as raised:
        qkov.plan(build_model("gpt2"), **SIZES | change)
    assert raised.value.exit_status == 2


def test_text_and_json_say_the_same(quick, monkeypatch):
    monkeypatch.setattr(peaks, "base_bytes", lambda *_: 0)
    found = qkov.plan(build_model("llama"), **SIZES, memory_budget="2 GB", rate=None)
    text, values = str(found), found.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert "7 + 5 samples of 12 tokens; 2 layers, 32 slices" in text
    assert "memory budget 2 GB: enough" in text
    assert "time" in text
    assert "None" not in text
    timed = qkov.plan(build_model("llama"), **SIZES | {"timing": "measure"}, rate=1e9)
    assert "at the given rate" in str(timed)
    assert timed.to_dict()["seconds"]["method"] == "given rate"


def test_the_model_is_left_as_it_was(quick):
    model = build_model("gpt2")
    before = [(one, one.data_ptr(), one.requires_grad) for one in model.parameters()]
    model.train()
    qkov.plan(model, **SIZES, dtype="bfloat16")
    assert model.training
    after = [(one, one.data_ptr(), one.requires_grad) for one in model.parameters()]
    assert [(id(one), *rest) for one, *rest in after] == [(id(one), *rest) for one, *rest in before]
