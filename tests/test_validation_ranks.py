"""`python -m validation.ranks` passes what is right, fails what is wrong, and says which."""

import json
import shutil

import pytest

import qkov
from validation import rank_failures, rank_processes, rank_program, ranks
from validation.faults.planting import planted


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(ranks, "KILLS", 6)
    monkeypatch.setattr(ranks, "POWER", 6)


def run(tmp_path, capsys):
    status = ranks.main(["--brief", "--output", str(tmp_path / "x" / "ranks.json")])
    rows = json.loads((tmp_path / "x" / "ranks.json").read_text())["rows"]
    assert all(
        f"{row['status']:7}" in line for row, line in zip(rows, capsys.readouterr().out.splitlines(), strict=True)
    )
    return status, [row["status"] for row in rows]


def test_a_sound_collection_passes(tmp_path, few, capsys):
    assert run(tmp_path, capsys) == (0, ["passed", "passed"])


def test_a_fault_fails(tmp_path, few, capsys):
    rank_failures.reference()
    with planted(
        "rounds.Rounds._committed", lambda original: lambda self, lines, error: original(self, lines[::-1], error)
    ):
        assert run(tmp_path, capsys) == (1, ["failed", "failed"])


def test_runs_that_differ_are_named(tmp_path, monkeypatch):
    """Processes take seconds to start; here one process plays all ranks."""
    calls, scored = [], {}

    def launch(size, *program, end=None, restarts=0):
        calls.append((size, end, restarts))
        folder = program[-1]
        failed = end is not None and not restarts
        if not failed:
            for family in rank_program.FAMILIES:
                shutil.copytree(tmp_path / "one" / family, folder / family, dirs_exist_ok=True)
                collector = qkov.FisherCollector.open(folder / family)
                if family not in scored:
                    scored[family] = rank_program.heatmaps(collector, lambda metric: metric.compute_heatmap("a", "b"))
                for name, heatmap in scored[family].items():
                    for rank in range(size):
                        heatmap.save(folder / f"{family}-{name}-{rank}.safetensors")
        if size == 3 and end is None:
            (folder / "fused" / "journal").write_bytes(b"")
            (folder / "grouped-ema-2.safetensors").unlink()
        return rank_processes.subprocess.CompletedProcess(program, int(failed), "", "")

    monkeypatch.setattr(ranks, "launch", launch)
    rows = list(ranks.runs(tmp_path))
    wrong = [row for row in rows if row["status"] == "failed"]
    assert len(rows) == 4 + len(ranks.ENDS)
    assert [row["what"].split(",")[0] for row in wrong] == ["3 processes", "2 processes"]
    assert wrong[0]["said"] == "store of 'fused'; heatmap 'grouped-ema' of rank 2"
    assert calls[-1] == (2, "1 loss 2 SIGKILL", 1)
    assert {end for _, end, _ in calls} == {None, *(end for _, end in ranks.ENDS)}
