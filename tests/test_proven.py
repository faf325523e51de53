"""Families of transformers under the laws: sums over heads and permutations, on top of tests/test_architectures.py."""

import pytest

from qkov import checks
from validation import architectures, found_architectures, proven

QUICK = ("head_additivity", "relabelling")


# The families that are best known; `validate` makes every experiment on all of them.
COMMON = [one.name for one in found_architectures.families()]


@pytest.mark.parametrize("name", COMMON)
def test_heads_add_up_and_can_be_permuted(name):
    names = [check for check in QUICK if check not in proven.EXCEPTIONS.get(name, {})]
    results = proven.run_checks(name, names)
    assert [str(result) for result in results if not result.passed] == []


@pytest.mark.parametrize("name", proven.EXCEPTIONS)
def test_an_exception_is_still_one(name):
    results = proven.run_checks(name, list(proven.EXCEPTIONS[name]))
    assert [result.check for result in results if result.passed] == []


def test_a_position_of_cross_attention_is_shifted_where_there_are_fewer_keys_than_queries():
    (result,) = proven.run_checks("prophetnet-cross", ["query_position"])
    assert result.passed, str(result)


@pytest.mark.parametrize("name", ["llama", "falcon", "codegen", "bert"])
def test_a_family_is_measured_as_a_row(name):
    row = proven.measure_architecture(name)
    assert row["status"] == "proved", row["reason"]
    assert row["checks_passed"] == len(proven.SCORES) + len(proven.LAYOUT)
    assert row["packing"] == architectures.ARCHITECTURES[name].packing
    assert row["compared"] > 100


def test_a_family_with_a_wrong_layout_fails(monkeypatch):
    monkeypatch.setattr("qkov.geometry.kv_head_of", lambda head, num_heads, num_kv_heads: head % num_kv_heads)
    row = proven.measure_architecture("llama")
    assert row["status"] == "failed"
    assert "head_rows" in row["reason"]


def test_a_refusal_is_measured_with_its_words():
    row = proven.measure_refusal(next(iter(architectures.REFUSED)))
    assert row["status"] == "refused"
    assert row["reason"]


def test_a_refusal_that_does_not_come_fails(monkeypatch):
    name, (_, words) = next(iter(architectures.REFUSED.items()))
    monkeypatch.setitem(architectures.REFUSED, name, (architectures.ARCHITECTURES["llama"], words))
    assert proven.measure_refusal(name)["status"] == "failed"


def test_at_least_60_families_pass_every_check():
    whole = {name.partition("-")[0] for name in architectures.ARCHITECTURES if name not in proven.EXCEPTIONS}
    assert len(whole) >= 60
    assert set(proven.EXCEPTIONS) <= set(architectures.ARCHITECTURES)


def test_rows_come_from_processes_of_their_own():
    rows, refused = proven.run_architectures(["llama", "gpt_neox"], jobs=1, progress=False)
    assert [row["family"] for row in rows] == ["llama", "gpt_neox"]
    assert len(refused) == len(architectures.REFUSED)
    assert {row["status"] for row in rows + refused} == {"proved", "refused"}


def test_loss_of_any_model_is_one_number_per_sample():
    model, inputs = architectures.build(architectures.ARCHITECTURES["vit"])
    losses = proven.output_loss(model, inputs)
    assert losses.shape == (1,)
    assert set(checks.LAYOUT_PROOF) < set(proven.LAYOUT)
