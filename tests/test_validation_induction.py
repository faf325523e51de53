"""The induction model: its data, its training in a few steps, its cache, and its findings on a circuit written by hand."""

import dataclasses

import pytest
import torch

from tests.induction_circuit import NUM_TOKENS, induction_circuit
from validation import induction, model_cache

SIZES = {"vocab_size": NUM_TOKENS, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
TINY = dataclasses.replace(
    induction.RECIPE, sizes=induction.RECIPE.sizes | SIZES, length=30, most_steps=3, batch_size=4
)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The module with a recipe of three steps and an empty cache."""
    monkeypatch.setenv(model_cache.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(induction, "RECIPE", TINY)
    monkeypatch.setattr(induction, "fingerprint", lambda: "tiny" * 16)
    return tmp_path


def test_sequences_repeat_a_piece_and_say_what_can_be_predicted():
    tokens, later = induction.sequences(TINY, 20, seed=3)
    assert tokens.shape == (20, 30)
    assert later.shape == (20, 29)
    assert torch.equal(tokens, induction.sequences(TINY, 20, seed=3)[0])
    periods = set()
    for row, known in zip(tokens.tolist(), later.tolist(), strict=True):
        period = next(p for p in range(1, 30) if row[p:] == row[:-p])
        periods.add(period)
        assert len(set(row[:period])) == period
        # What follows a token of an earlier round can be predicted, and nothing else.
        assert known == [row[at] in row[:at] for at in range(29)]
    assert periods <= set(range(7, 16))
    assert len(periods) > 4


def test_training_repeats_bit_for_bit_and_stops_where_it_must():
    (model, record), (_, again) = (induction.train_model(TINY) for _ in range(2))
    assert record["weights"] == again["weights"]
    assert record["steps"] == 3
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    early = dataclasses.replace(TINY, stop=100.0, most_steps=99)
    assert induction.train_model(early)[1]["steps"] == induction.CHECK_EVERY


def test_a_model_that_learned_too_little_is_refused(tiny):
    with pytest.raises(ValueError, match=r"expected at most 0\.1"):
        induction.load_model()
    assert induction.load_record() is None


def test_a_trained_model_is_read_from_the_cache(tiny, monkeypatch, capsys):
    monkeypatch.setattr(induction, "LARGEST_LOSS", 99)
    steps = []
    first = induction.load_model(on_step=steps.append)
    assert len(steps) == 3
    second = induction.load_model(on_step=steps.append)
    assert len(steps) == 3
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    assert induction.main([]) == 0
    assert "3 steps" in capsys.readouterr().out
    next(tiny.glob("*.safetensors")).write_bytes(b"damaged")
    assert induction.load_record() is None


def test_fingerprint_depends_on_the_recipe(monkeypatch):
    before = induction.fingerprint.__wrapped__()
    monkeypatch.setattr(induction, "RECIPE", TINY)
    assert induction.fingerprint.__wrapped__() != before


def test_a_head_taken_away_is_a_head_whose_output_columns_are_zero():
    model = induction_circuit()
    tokens, _ = induction.sequences(TINY, 3, seed=0)
    whole = model(input_ids=tokens).logits
    with induction.without_heads(model, [(1, 0)]):
        masked = model(input_ids=tokens).logits
    assert torch.equal(model(input_ids=tokens).logits, whole)
    width = model.config.head_dim
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight[:, :width] = 0
    torch.testing.assert_close(model(input_ids=tokens).logits, masked)
    assert (whole - masked).abs().max() > 1


def outcomes(monkeypatch, model):
    """Status of every row by what was measured, with the circuit's bound on the loss."""
    monkeypatch.setattr(induction, "RECIPE", TINY)
    # Its first position takes itself for the token before, so that it errs where the first token comes again.
    monkeypatch.setattr(induction, "LARGEST_LOSS", 1.0)
    monkeypatch.setattr(induction, "load_model", lambda: model)
    monkeypatch.setattr(induction, "build_model", lambda: induction_circuit(shift=2))
    rows = induction.rows()
    assert {row["study"] for row in rows} == {"head types"}
    return {row["procedure"]: row["status"] for row in rows}


def test_findings_hold_on_a_circuit_written_by_hand(monkeypatch):
    found = outcomes(monkeypatch, induction_circuit())
    twin = "typed heads of the untrained twin"  # looks two back here, which is a type
    assert {name for name, status in found.items() if status == "failed"} == {twin}


def test_the_study_has_one_length_and_nothing_of_it_is_committed(monkeypatch):
    monkeypatch.setattr(induction, "rows", lambda: ["row"])
    assert induction.measure(False, jobs=2) == induction.make_long(2) == ["row"]
    assert induction.EVIDENCE.read() == {"rows": [], "seconds": None, "complaints": []}


def test_findings_fail_on_a_model_without_the_circuit(monkeypatch):
    found = outcomes(monkeypatch, induction_circuit(shift=2))
    for name in (
        "largest induction score",
        "gain lost without the induction heads",
        "gain lost without the previous-token heads",
    ):
        assert found[name] == "failed"
