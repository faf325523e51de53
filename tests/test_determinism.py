"""The tiers in words: what ran with which settings, and what did not and why."""

import pytest

from validation import decisions_evidence, determinism, reference_values, repetition


def row(tier, setting, status="passed", model="m"):
    return {"tier": tier, "setting": setting, "status": status, "model": model, "reason": "changes nothing"}


@pytest.fixture
def measured(monkeypatch):
    """All stages replaced: what they return, and what differs from the machine of the committed values."""

    def measure(differences=(), reference="passed", settings=None):
        rows = [row("D1", "s"), row("D2", "t"), row("D2", "u", "not run")] if settings is None else settings
        compared = [{"check": "reference_D3", "model": "m", "status": reference}]
        monkeypatch.setattr(decisions_evidence, "measure_decisions", lambda jobs: (["d"], [row("D0", "p")]))
        monkeypatch.setattr(repetition, "measure_repetition", lambda jobs: (["r"], rows, ["array"]))
        monkeypatch.setattr(reference_values, "measure_reference", lambda: (compared, list(differences)))
        return determinism.measure_determinism(jobs=1)

    return measure


def test_tiers_say_what_ran_and_how(measured):
    found = measured()
    assert found["tiers_run"] == {"D0": "on m: p", "D1": "on m: s", "D2": "on m: t"}
    assert found["results"][:2] == ["d", "r"]
    assert found["arrays"] == ["array"]
    assert set(found["tiers_not_run"]) == {"D3", "D4"}
    assert "needs a second machine" in found["tiers_not_run"]["D3"]


def test_D3_ran_where_something_differs(measured):
    found = measured(differences=["versions torch: 2.13 there, 2.14 here"])
    assert "2.14 here" in found["tiers_run"]["D3"]
    assert set(found["tiers_not_run"]) == {"D4"}


def test_a_tier_without_a_setting_did_not_run(measured):
    found = measured(settings=[row("D1", "s"), row("D2", "u", "not run")])
    assert set(found["tiers_not_run"]) == {"D2", "D3", "D4"}
    assert "D2" not in found["tiers_run"]


def test_without_comparable_weights_D3_did_not_run(measured):
    found = measured(differences=["x"], reference="not run")
    assert found["tiers_not_run"]["D3"] == "no committed value is of these weights"


def test_omissions_name_tiers_and_settings(measured):
    named = [entry["what"] for entry in determinism.omissions(measured())]
    assert named == ["determinism tier D3", "determinism tier D4", "determinism D2, u, on m"]
