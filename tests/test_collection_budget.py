"""Passes have as many samples as the budget holds, and what it cannot hold is refused before the first."""

import pytest
import torch

import qkov
from qkov import collection_budget, memory, pass_memory, passes, resources
from qkov.errors import MemoryLimitError, OptionError
from tests.builders import build_batch, build_model

HELD = 1_000_000
PEAKS = {1: 10_000, 2: 20_000, 3: 30_000, 4: 40_000, 8: 80_000}


@pytest.fixture(autouse=True)
def _other_tests_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "return_what_is_freed", lambda: True)


@pytest.fixture
def sizes(monkeypatch):
    """Memory in round numbers: 1 MB held, 10 kB for each sample of a pass, 100 bytes kept for each token."""
    monkeypatch.setattr(memory, "resident_bytes", lambda: HELD)
    monkeypatch.setattr(pass_memory, "pass_bytes", lambda _model, _batch, count, **_: PEAKS[count])
    monkeypatch.setattr(pass_memory, "with_slack", lambda num_bytes: num_bytes)
    monkeypatch.setattr(resources, "sample_bytes", lambda _weights, _config, num_tokens, itemsize: 100 * num_tokens)
    monkeypatch.setitem(passes.TOKENS_PER_PASS, "cpu", 80)  # 8 samples of 10 tokens


def chosen(limit, num_samples=8, *, stored=False, micro_batch=None):
    choose = collection_budget.chooser(
        HELD + limit, torch.nn.Linear(1, 1), config=None, weights=(), loss_fn=None, micro_batch=micro_batch, stored=stored
    )  # fmt: skip
    return choose({"input_ids": torch.ones(num_samples, 10, dtype=torch.long)}, range(num_samples))


# 1000 bytes a sample are kept: all 8 but those of the pass, whose peak counts its own.
@pytest.mark.parametrize(
    ("limit", "expected"), [(80_000, 8), (79_999, 4), (44_000, 4), (43_999, 2), (26_000, 2), (25_999, 1), (17_000, 1)]
)
@pytest.mark.usefixtures("sizes")
def test_as_many_samples_as_fit_beside_what_is_kept(limit, expected):
    assert chosen(limit) == expected


@pytest.mark.parametrize(("limit", "expected"), [(80_000, 8), (79_999, 4), (39_999, 2), (10_000, 1)])
@pytest.mark.usefixtures("sizes")
def test_a_store_keeps_nothing_between_passes(limit, expected):
    assert chosen(limit, stored=True) == expected
    assert chosen(limit, 8, stored=True) == chosen(limit, 16, stored=True)


@pytest.mark.usefixtures("sizes")
def test_writing_a_sample_counts(monkeypatch):
    monkeypatch.setattr(resources, "sample_bytes", lambda _weights, _config, num_tokens, itemsize: 1000 * num_tokens)
    assert chosen(8 * 10_000 + 30_000, stored=True) == 8
    assert chosen(8 * 10_000 + 29_999, stored=True) == 4


@pytest.mark.usefixtures("sizes")
def test_what_does_not_fit_is_refused_with_both_numbers_and_the_remedy():
    with pytest.raises(MemoryLimitError) as raised:
        chosen(16_999)
    said = str(raised.value)
    assert "1 sample in a pass takes 17 kB, 8 kB of it for keeping 8 samples, beside the 1 MB that are held now" in said
    assert "memory_budget is 1.02 MB" in said
    assert "Raise memory_budget; keep samples on disk, FisherCollector(store=path); collect fewer" in said
    with pytest.raises(MemoryLimitError) as raised:
        chosen(9_999, stored=True)
    assert "1 sample in a pass takes 10 kB, beside" in str(raised.value)
    assert "store=path" not in str(raised.value)


@pytest.mark.usefixtures("sizes")
def test_a_number_that_was_asked_for_is_kept_or_refused():
    assert chosen(35_000, micro_batch=3) == 3  # no more, no fewer
    assert chosen(10**9, micro_batch=3) == 3
    with pytest.raises(MemoryLimitError, match=r"3 samples in a pass.*give a smaller micro_batch, or none"):
        chosen(34_999, micro_batch=3)


@pytest.mark.usefixtures("sizes")
def test_no_more_samples_are_counted_than_there_are():
    assert chosen(10_000, 1) == 1
    assert chosen(20_000, 2, micro_batch=8) == 2


def test_without_a_budget_nothing_is_chosen():
    options = {"config": None, "weights": (), "loss_fn": None, "stored": False}
    assert collection_budget.chooser(None, torch.nn.Linear(1, 1), micro_batch=None, **options) is None
    assert collection_budget.chooser(None, torch.nn.Linear(1, 1), micro_batch=5, **options) == 5


def test_a_system_that_does_not_tell_is_said(monkeypatch):
    monkeypatch.setattr(memory, "resident_bytes", lambda: None)
    with pytest.raises(OptionError, match=r"memory_budget needs a system that says.*micro_batch="):
        collection_budget.held_bytes(torch.device("cpu"))


def passes_of(collector, monkeypatch, batch):
    """Collect, and return the number of samples of every pass."""
    seen, collect = [], passes.gradients.collect_factors

    def counted(model, part, *rest):
        seen.append(len(part["input_ids"]))
        return collect(model, part, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(passes.gradients, "collect_factors", counted)
        collector.collect_fisher(build_model("llama", dtype=torch.float32), batch, "a", progress=False)
    return seen


def test_a_budget_makes_passes_smaller_and_results_agree(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "resident_bytes", lambda: HELD)
    monkeypatch.setattr(pass_memory, "SLACK_BYTES", 0)
    batch = build_batch((12, 9, 12, 7, 12))
    free, wide = qkov.FisherCollector(), qkov.FisherCollector(memory_budget="1GB")
    assert passes_of(free, monkeypatch, batch) == passes_of(wide, monkeypatch, batch) == [5]
    model = build_model("llama", dtype=torch.float32)
    one = pass_memory.with_slack(pass_memory.pass_bytes(model, batch, 1))
    tight = qkov.FisherCollector(memory_budget=HELD + 2 * one, store=tmp_path / "store")
    with tight:
        assert passes_of(tight, monkeypatch, batch) == [1] * 5
    for sample_id in range(5):
        expected, same, found = (one.get_sample_gradients("a", sample_id) for one in (free, wide, tight))
        for name, gradient in expected.items():
            assert torch.equal(gradient, same[name]), "with enough memory passes and bits are those without a budget"
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5)


def test_a_store_goes_on_with_another_budget(tmp_path):
    model, batch = build_model("llama", dtype=torch.float32), build_batch((12, 9))
    small = qkov.FisherCollector(memory_budget="1MB", store=tmp_path / "s")
    with pytest.raises(MemoryLimitError, match="Nothing of this batch was collected"), small:
        small.collect_fisher(model, batch, "a", progress=False)
    for budget in ("100GB", None, 10**12):
        collector = qkov.FisherCollector(memory_budget=budget, store=tmp_path / "s")
        collector.collect_fisher(model, batch, "a", progress=False)
        collector.close()
        assert collector.memory_budget == memory.budget_bytes(budget)
    assert "memory_budget" not in (tmp_path / "s" / "store.json").read_text()


def test_a_refused_collection_in_memory_keeps_nothing():
    collector = qkov.FisherCollector(memory_budget="1 MB")
    with pytest.raises(MemoryLimitError, match="memory_budget is 1 MB") as raised:
        collector.collect_fisher(build_model("llama", dtype=torch.float32), build_batch((9, 9)), "a", progress=False)
    assert raised.value.exit_status == 8
    assert collector.tasks == ()


def test_nonsense_is_refused_before_a_store_is_made(tmp_path):
    with pytest.raises(OptionError, match="memory_budget='much'"):
        qkov.FisherCollector(memory_budget="much", store=tmp_path / "s")
    assert not (tmp_path / "s").exists()
