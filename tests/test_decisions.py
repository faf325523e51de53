"""D0: decisions from committed files; a change of any of them is caught."""

import copy
import dataclasses
import json

import numpy as np
import pytest

from qkov import heatmap, strongest
from qkov.statistics import multiplicity, relabelings
from validation import decisions, decisions_evidence


@pytest.fixture(scope="module")
def expected():
    return json.loads(decisions_evidence.EXPECTED.read_text(encoding="utf-8"))


def errors(found, expected):
    exact, floats = decisions_evidence.compare(found, expected)
    return exact.error, floats.error


def test_decisions_are_the_committed_ones(expected):
    exact, floats = errors(decisions.decide(), expected)
    assert exact == 0
    assert floats <= decisions_evidence.FLOATS


def test_there_is_something_to_decide(expected):
    exact = expected["exact"]
    for name in ("source", "sym", "asym"):
        assert len(set(exact[f"{name} counts"])) >= 7
        assert sorted(exact[f"{name} order"]) == list(range(9))
    assert 0 < len(exact["source survivors"]) < 9
    assert len(set(exact["conformal counts"])) >= 4
    assert len({tuple(ids) for ids in exact["in conflict"].values()}) >= 3
    # Ties in every list: without a rule for them the rows would be in any order.
    found = heatmap.load_heatmap(decisions.FOLDER / "heatmap.safetensors")
    for block in "QKVO":
        scores = [row["score"] for row in found.top_conflicts(block, top_k=12)]
        assert len(set(scores)) <= 3, block


def unstable_ties(self, rank, scores):
    values, places = scores.reshape(-1), np.arange(scores.size)
    joined = np.concatenate([self.scores, values])
    ranks = np.concatenate([self.ranks, np.full_like(places, rank)])
    places = np.concatenate([self.places, places])
    # Among equals the later position first.
    best = np.lexsort((-places, -ranks, joined if self.ascending else -joined))[: self.top_k]
    return dataclasses.replace(self, scores=joined[best], ranks=ranks[best], places=places[best])


def wrong_counts(observed, null, kept=multiplicity.permutation_p):
    return kept(observed, null) + 1 / (1 + len(null))


def other_words(count, width, seed, stream, kept=relabelings.raw_words):
    return kept(count, width, seed + 1, stream)


@pytest.mark.parametrize(
    ("module", "name", "wrong"),
    [
        (strongest.Strongest, "with_slice", unstable_ties),
        (multiplicity, "permutation_p", wrong_counts),
        (relabelings, "raw_words", other_words),
    ],
    ids=["unstable ties", "one more exceedance", "other relabelings"],
)  # fmt: skip
def test_planted_changes_of_decisions_are_caught(module, name, wrong, expected, monkeypatch):
    monkeypatch.setattr(module, name, wrong)
    assert errors(decisions.decide(), expected)[0] == np.inf


def test_a_float_that_moves_by_a_billionth_is_caught(expected):
    found = copy.deepcopy(expected)
    found["floats"]["cosines"][3] += 1e-9
    assert errors(found, expected)[0] == 0
    assert errors(found, expected)[1] > decisions_evidence.FLOATS


@pytest.mark.parametrize("part", ["exact", "floats"])
def test_a_missing_decision_is_caught(part, expected):
    found = copy.deepcopy(expected)
    found[part].popitem()
    assert np.inf in errors(found, expected)
    assert np.inf in errors(expected, found)


def test_files_follow_from_integers(tmp_path):
    """The bytes of two files are the same wherever they are made; the third was measured, and is kept as it is."""
    decisions_evidence.make_files(tmp_path)
    for name in ("gradients", "heatmap"):
        made, kept = (folder / f"{name}.safetensors" for folder in (tmp_path, decisions.FOLDER))
        assert made.read_bytes() == kept.read_bytes(), name
    (tmp_path / "conflicts.safetensors").write_bytes(b"kept")
    decisions_evidence.make_files(tmp_path)
    assert (tmp_path / "conflicts.safetensors").read_bytes() == b"kept"


PLACES = (decisions_evidence.Place("a process"), decisions_evidence.Place("nothing", environment={"SOME": "1"}))


def test_processes_are_asked_and_a_setting_that_does_nothing_is_not_run():
    results, rows = decisions_evidence.measure_decisions(PLACES)
    assert [row["status"] for row in rows] == ["passed", "not run"]
    assert [(row["check"], row["status"]) for row in results] == [
        ("decisions_D0", "passed"), ("decisions_D0_floats", "passed"),
    ]  # fmt: skip
    assert [row["compared"] for row in results] == [rows[0]["bits_compared"], rows[0]["scores_compared"]]
    assert min(row["compared"] for row in results) > 200


def test_another_decision_or_no_answer_fails(monkeypatch, expected):
    other = copy.deepcopy(expected) | {"probe": {}}
    other["exact"]["source counts"][0] += 1
    for answer in (other, "ended with status 1"):
        monkeypatch.setattr(decisions_evidence, "ask", lambda place, answer=answer: answer)
        results, rows = decisions_evidence.measure_decisions(PLACES[:1])
        assert rows[0]["status"] == "failed"
        assert results[0]["status"] == "failed"
