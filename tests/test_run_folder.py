"""A run is opened as it was written, or not at all."""

import json
import shutil

import pytest

from qkov import errors, run_folder

from .runs import make_results, task_lines


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_results(tmp_path_factory.mktemp("made"))


@pytest.fixture
def run(made, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(made.parent, tmp_path / "copy") / "run"


def test_results_are_read(made):
    run = run_folder.open_run(made)
    assert run.complete
    assert run.variants == ("unsigned",)
    assert run.scores() == run.scores("unsigned")
    assert run.scores().task_a == "math"
    assert run.prediction().attributes["task_b"] == "code"
    assert (run.statistics(), run.top_pairs(), run.head_types(), run.collector()) == (None,) * 4
    assert run.config.source == "math"
    assert run.texts("chat") == {one["id"]: one["text"] for one in task_lines("chat")}


def test_fingerprints_of_the_record_are_those_of_the_results(made):
    run = run_folder.open_run(made)
    found = {name: facts["fingerprint"] for name, facts in run.record["results"].items()}
    assert found == {
        "scores-unsigned.safetensors": run.scores().fingerprint,
        "prediction.safetensors": run.prediction().fingerprint,
    }


@pytest.mark.parametrize("name", ["scores-unsigned.safetensors", "prediction.safetensors", "config.yaml", "run.json"])
def test_an_edited_file_is_refused(run, name):
    data = bytearray((run / name).read_bytes())
    data[len(data) // 2] ^= 1
    (run / name).write_bytes(data)
    with pytest.raises(errors.ResultFileError, match=name) as raised:
        run_folder.open_run(run)
    assert raised.value.exit_status == 3


@pytest.mark.parametrize("name", ["scores-unsigned.safetensors", "config.yaml"])
def test_a_missing_file_is_refused(run, name):
    (run / name).unlink()
    with pytest.raises(errors.ResultFileError, match=f"{name}.*cannot be read"):
        run_folder.open_run(run)


def test_a_file_edited_after_opening_is_refused_when_read(run):
    opened = run_folder.open_run(run)
    (run / "prediction.safetensors").write_bytes((run / "scores-unsigned.safetensors").read_bytes())
    with pytest.raises(errors.ResultFileError, match="not what the run wrote"):
        opened.prediction()


def test_an_edited_value_of_the_record_is_refused(run):
    record = json.loads((run / "run.json").read_text())
    record["data"]["math"]["path"] = "other.jsonl"
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(errors.ResultFileError, match="edited"):
        run_folder.open_run(run)


@pytest.mark.parametrize("results", [{"../x": {"sha256": "0"}}, {"x": 3}, [], {"x": {}}])
def test_a_record_with_a_checksum_of_its_own_names_no_file_elsewhere(run, results):
    record = run_folder.read_record(run)
    run_folder.write_record(run, {**record, "results": results})
    with pytest.raises(errors.ResultFileError, match="edited"):
        run_folder.open_run(run)


def test_a_run_that_is_not_complete_is_refused_and_the_command_told(run):
    record = run_folder.read_record(run)
    run_folder.write_record(run, {**record, "status": "incomplete"})
    with pytest.raises(errors.RunFolderError, match=r"To go on: qkov run .*run/config\.yaml --out .*run") as raised:
        run_folder.open_run(run)
    assert raised.value.exit_status == 3
    assert not run_folder.open_run(run, allow_incomplete=True).complete


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(errors.RunFolderError, match="is no run"):
            run_folder.open_run(folder)
    for text in ("[]", '{"format": "other"}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(errors.RunFolderError, match="is no record"):
            run_folder.open_run(tmp_path)
    (tmp_path / "run.json").write_text("[" * 100_000)
    with pytest.raises(errors.ResultFileError, match="cannot be read"):
        run_folder.open_run(tmp_path)


def test_what_is_not_there_is_named(made):
    run = run_folder.open_run(made)
    with pytest.raises(errors.OptionError, match="no scores of variant 'signed'; it holds unsigned"):
        run.scores("signed")
    with pytest.raises(errors.OptionError, match="no task 'maths'"):
        run.texts("maths")


def test_texts_that_have_changed_are_not_shown(run):
    opened = run_folder.open_run(run)
    path = run.parent / "math.jsonl"
    path.write_text(path.read_text().replace("= ", "== "))
    with pytest.raises(errors.ResultFileError, match="has changed: its sha256 is"):
        opened.texts("math")
    path.unlink()
    with pytest.raises(errors.ResultFileError, match="cannot read the task file"):
        opened.texts("math")


def test_a_run_can_be_moved_together_with_what_it_rests_on(run, tmp_path):
    shutil.move(run.parent, tmp_path / "elsewhere")
    assert run_folder.open_run(tmp_path / "elsewhere" / "run").texts("code")["c0"] == "x0 = f(3)"
    assert str(tmp_path) not in (tmp_path / "elsewhere" / "run" / "config.yaml").read_text()
