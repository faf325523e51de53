"""The evidence of remedies: both studies, in two lengths, with the sources that made it."""

import dataclasses
import json

from tests.test_calibration import AtOnce
from validation import freezing, merging_models, remedies_evidence

ROW = {"study": "freezing", "procedure": "p", "data": "d", "sets": 1, "value": 0.1, "low": 0.1, "high": 0.1, "bound": None,
       "direction": "shown", "status": "passed"}  # fmt: skip


def test_both_studies_are_measured_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(remedies_evidence.suite, "process_pool", lambda jobs: AtOnce())
    monkeypatch.setattr(remedies_evidence.trained, "load_record", lambda family: {"weights": "1234"})
    monkeypatch.setattr(freezing, "measure_pair", lambda pair, seed, length: (pair, seed))
    monkeypatch.setattr(merging_models, "measure_seed", lambda seed, length: seed)
    monkeypatch.setattr(freezing, "rows", lambda results, length: [ROW | {"sets": len(results)}])
    monkeypatch.setattr(
        merging_models, "rows", lambda results, length: [ROW | {"study": "merging", "sets": len(results)}]
    )
    evidence = dataclasses.replace(remedies_evidence.EVIDENCE, path=tmp_path / "long.json")
    monkeypatch.setattr(remedies_evidence, "EVIDENCE", evidence)
    assert remedies_evidence.main(["--jobs", "1"]) == 0
    assert "passed: merging of p on d" in capsys.readouterr().out
    document = json.loads((tmp_path / "long.json").read_text())
    assert [(row["study"], row["sets"], row["model"]) for row in document["rows"]] == [
        ("freezing", 10, "1234"), ("merging", 5, "1234"),
    ]  # fmt: skip
    assert evidence.read()["complaints"] == []
    assert [row["sets"] for row in remedies_evidence.measure(False, jobs=1)] == [1, 1]


def test_every_source_that_is_named_exists():
    hashes = remedies_evidence.EVIDENCE.source_hashes()
    assert set(hashes) == set(remedies_evidence.EVIDENCE.sources)
