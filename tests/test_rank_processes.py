"""Programs that torchrun starts, one of whose processes is killed: the next ones, however many, end with the same bits.

Processes take seconds to start, so a few runs serve all tests of this file.
"""

import runpy
import shutil
import sys
from pathlib import Path

import pytest

import qkov
from tests.stores import digest, same_samples
from validation import rank_program
from validation.rank_processes import ROOT, launch

EXAMPLE = ROOT / "examples" / "distributed.py"


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """Folder of what one process makes that knows nothing of ranks, and its heatmaps."""
    folder, found = tmp_path_factory.mktemp("one"), {}
    with qkov.reproducibility.deterministic(threads=1):
        for family in rank_program.FAMILIES:
            with qkov.FisherCollector(store=folder / family) as collector:
                rank_program.fill(collector, rank_program.build(family))
            found[family] = rank_program.heatmaps(collector, lambda metric: metric.compute_heatmap("a", "b"))
    return folder, found


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Three runs that go on with each other's store: ``[(finished process, copy of the folder as it left it), ...]``.

    In the first, of three ranks, which have completed one model, one is killed in the second round of another; in the second,
    of two ranks, one is asked to end in the first round; in the third, of three, rank 0 is killed while it gives shards their
    names, torchrun starts all ranks again, and they complete.
    """
    folder = tmp_path_factory.mktemp("chain") / "work"
    folder.mkdir()
    runs = []
    for size, end, restarts in ((3, "1 loss 2 SIGKILL", 0), (2, "1 loss 1 SIGTERM", 0), (3, "0 replace 3 SIGKILL", 1)):
        families = ["grouped"] if runs else ["fused", "grouped"]
        done = launch(size, "-m", "validation.rank_program", folder, *families, end=end, restarts=restarts)
        runs.append((done, shutil.copytree(folder, folder.parent / f"after {len(runs)}")))
    return runs


def held(folder):
    """Ids of the tasks of a store that is not sealed, by task."""
    collector = qkov.FisherCollector.open(folder, allow_unsealed=True)
    return {task: collector.sample_ids(task) for task in collector.tasks}


def test_a_killed_rank_ends_all_and_whole_rounds_are_kept(chain):
    done, folder = chain[0]
    assert done.returncode != 0
    assert "-9" in done.stderr
    assert "RankFailedError" in done.stderr
    assert "run the same command again, with any number of ranks" in done.stderr
    assert held(folder / "grouped") == {"a": (0, 1, 2, 3, 4, 5)}  # the first round: three passes of two


def test_a_signal_to_one_rank_ends_all_after_the_round(chain):
    done, folder = chain[1]
    assert done.returncode != 0
    assert "interrupted by SIGTERM (rank 1)" in done.stderr
    assert held(folder / "grouped") == {"a": tuple(range(10))}  # both ranks have finished their passes


@pytest.mark.parametrize(("family", "place"), [("fused", 0), ("grouped", 2)])
def test_a_completed_run_has_the_bits_of_one_process_on_every_rank(chain, one_process, family, place):
    done, folder = chain[place]
    expected, heatmaps = one_process
    assert (done.returncode == 0) == (place == 2), done.stderr
    assert digest(folder / family) == digest(expected / family)
    for name, heatmap in heatmaps[family].items():
        for rank in range(3):
            assert qkov.load_heatmap(folder / f"{family}-{name}-{rank}.safetensors").identical(heatmap)


@pytest.mark.parametrize("place", [0, 1])
def test_one_process_completes_what_ranks_have_left(chain, one_process, tmp_path, place):
    _, folder = chain[place]
    store = shutil.copytree(folder / "grouped", tmp_path / "s")
    before = held(store)
    with qkov.FisherCollector(store=store) as collector:
        rank_program.fill(collector, rank_program.build("grouped"))
    assert digest(store) == digest(one_process[0] / "grouped")
    expected = qkov.FisherCollector.open(one_process[0] / "grouped")
    assert same_samples(collector, expected)
    assert all(ids == expected.sample_ids(task)[: len(ids)] for task, ids in before.items())


def test_the_example_runs_as_written_and_alone(tmp_path, monkeypatch, capsys):
    done = launch(2, EXAMPLE, "--store", tmp_path / "two", "--result", tmp_path / "two.safetensors")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("fingerprint") == 1
    monkeypatch.setattr(
        sys, "argv", [str(EXAMPLE), "--store", str(tmp_path / "one"), "--result", str(tmp_path / "one.safetensors")]
    )
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert capsys.readouterr().out == done.stdout
    assert digest(tmp_path / "one") == digest(tmp_path / "two")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_the_batch_script_starts_the_example():
    script = Path(ROOT / "examples" / "slurm" / "qkov.sbatch").read_text(encoding="utf-8")
    assert "examples/distributed.py" in script
    for option in ("--nnodes", "--nproc-per-node", "--rdzv-backend=c10d", "--rdzv-endpoint"):
        assert option in script
