"""The run of real size measures what it says, on a tiny model: peak, disk, operations, bounds; never a time."""

import dataclasses
import json

import pytest

import qkov
from validation import committed_state, real_size

TINY = real_size.Size(
    num_samples=4, num_tokens=8, threads=1, square=64, budget=4_000_000_000, least_parameters=10_000,
    config={
        "n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 640, "n_positions": 16, "bos_token_id": 0, "eos_token_id": 0,
    },
)  # fmt: skip


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """One run in a process of its own; everything else is made from what it found."""
    return real_size.run_apart(TINY, tmp_path_factory.mktemp("real_size"))


def by_procedure(rows):
    return {row["procedure"]: row for row in rows}


def test_a_run_measures_every_stage_in_a_process_of_its_own(measured):
    assert list(measured["stages"]) == list(real_size.STAGES)
    assert measured["threads"] == 1
    peaks = [measured["stages"][stage]["peak"] for stage in real_size.STAGES]
    assert peaks == sorted(peaks)
    assert 50_000_000 < peaks[0] <= measured["peak"] < 2_000_000_000  # torch alone takes more than 50 MB
    # embeddings and one layer: attention 4 d^2 + 4 d, feed-forward 8 d^2 + 5 d, two norms 4 d; a last norm 2 d
    assert measured["parameters"] == 640 * 16 + 16 * 16 + 12 * 16**2 + 13 * 16 + 2 * 16
    assert measured["headline"]["scores"] == 4 * 4 * 4 * 1 * 2
    factors = 2 * 4 * 7 * (16 + 48 + 16 + 16) * 4  # the last token has no gradient
    assert measured["disk"] > min(factors, 2 * 4 * (16 * 48 + 16 * 16) * 4)
    assert measured["operations"]["scoring"] == 2 * 4 * 16 * 16 * (8 * 8 + 4 * 4)


def test_operations_of_collecting_are_those_of_the_matrix_products(measured):
    d, tokens, vocabulary = 16, 8, 640
    forward = 2 * tokens * (12 * d * d) + 2 * (tokens - 1) * d * vocabulary
    per_sample = measured["operations"]["collecting"] / (2 * TINY.num_samples)
    # The backward pass stops at the lowest projection: at most twice the forward pass, and more than the forward pass alone.
    assert 1.2 * forward < per_sample < 2.5 * forward


def test_rows_hold_a_budget_that_is_kept_and_fail_one_that_is_not(measured):
    kept = real_size.rows_of(measured, TINY)
    assert {row["status"] for row in kept} == {"passed"}
    tight = real_size.rows_of(measured, dataclasses.replace(TINY, budget=1_000_000))
    assert [row["procedure"] for row in tight if row["status"] == "failed"] == ["peak of resident memory, GB"]
    small = real_size.rows_of(measured, dataclasses.replace(TINY, least_parameters=10**8))
    assert [row["procedure"] for row in small if row["status"] == "failed"] == ["parameters, millions"]


def test_a_peak_that_leaves_out_what_was_freed_would_be_seen(tmp_path):
    """The mark is of the highest moment: memory that is gone again at the end counts."""
    import subprocess
    import sys

    script = "from qkov import memory; block = bytearray(600_000_000); del block; print(memory.peak_resident_bytes())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 600_000_000


def test_two_tasks_read_different_tokens():
    model = real_size.build_model(TINY)
    first, second = (real_size.batch_of(model, TINY, task)["input_ids"] for task in ("a", "b"))
    assert first.shape == second.shape == (4, 8)
    assert int(first.max()) < 320 <= int(second.min())


def test_the_default_is_gpt2_small():
    import transformers

    assert transformers.GPT2Config().n_layer * transformers.GPT2Config().n_head == 144
    assert real_size.Size().budget == 4_000_000_000
    assert (real_size.Size().num_samples, real_size.Size().num_tokens, real_size.Size().threads) == (100, 128, 2)


def program(monkeypatch, tmp_path, found, *options):
    monkeypatch.setattr(real_size, "run_apart", lambda size, folder: found)
    paths = [tmp_path / "out" / "real_size.json", tmp_path / "evidence.json"]
    status = real_size.main(
        ["--output", str(paths[0]), "--evidence", str(paths[1]), "--folder", str(tmp_path), *options]
    )
    return status, paths


def test_the_program_fails_over_its_budget_and_writes_what_it_found(monkeypatch, tmp_path, capsys, measured):
    large = measured | {"parameters": 124_000_000}
    assert program(monkeypatch, tmp_path, large)[0] == 0
    status, paths = program(monkeypatch, tmp_path, large, "--budget", "1000000")
    assert status == 1
    assert "at most 0.001: failed" in capsys.readouterr().out
    for path in paths:
        record = committed_state.read("real_size", path)
        assert record["stale"] == []
        assert len(record["complaints"]) == 1
        assert "peak of resident memory" in record["complaints"][0]
    assert [one.name for one in tmp_path.iterdir() if one.is_dir()] == ["out"]  # the store's folder is gone


def test_sources_that_change_while_it_runs_leave_no_evidence(monkeypatch, tmp_path, capsys, measured):
    hashes = iter(({"a": "1"}, {"a": "2"}))
    monkeypatch.setattr(real_size.committed.CommittedEvidence, "source_hashes", lambda *given: next(hashes))
    status, paths = program(monkeypatch, tmp_path, measured)
    assert status == 1
    assert "changed while it ran" in capsys.readouterr().out
    assert not any(path.exists() for path in paths)


def test_figures_of_other_sources_are_not_run_and_no_failure(monkeypatch, tmp_path, measured):
    _, (path, _) = program(monkeypatch, tmp_path, measured)  # a tiny model: its row fails
    assert committed_state.read("real_size", path)["complaints"]
    assert committed_state.omissions("real_size", committed_state.read("real_size", path)) == []
    document = json.loads(path.read_text())
    assert "qkov/gradients.py" in document["sources"]
    document["sources"]["qkov/gradients.py"] = "0" * 64
    path.write_text(json.dumps(document))
    record = committed_state.read("real_size", path)
    assert (record["stale"], record["complaints"]) == (["qkov/gradients.py"], [])
    (row,) = committed_state.omissions("real_size", record)
    assert "qkov/gradients.py" in row["reason"]
    absent = committed_state.read("real_size", tmp_path / "absent.json")
    assert committed_state.omissions("real_size", absent)


def test_a_process_without_a_result_is_an_error(tmp_path):
    wrong = dataclasses.replace(TINY, config={"n_embd": 15, "n_head": 2})
    with pytest.raises(RuntimeError, match="no result"):
        real_size.run_apart(wrong, tmp_path)


def test_every_source_that_is_hashed_or_named_exists_or_is_of_another_part():
    hashed = real_size.EVIDENCE.source_hashes()
    assert {"validation/real_size.py", "qkov/gradients.py", "qkov/scoring.py", "qkov/shards.py"} <= hashed.keys()


def test_the_store_is_what_is_scored(tmp_path):
    config = real_size.collect(real_size.build_model(TINY), TINY, tmp_path / "store")
    heatmap = real_size.score(config, tmp_path / "store", TINY.budget)
    assert heatmap.arrays["Q"].shape == (4, 4, 1, 2)
    assert len(qkov.FisherCollector.open(tmp_path / "store").samples("a")) == 4
