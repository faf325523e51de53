"""`qkov report` on a run folder: the files that it writes, the same every time, and the runs that it refuses."""

import json
import shutil

import pytest
from typer.testing import CliRunner

import qkov
from qkov import cli, errors, run_folder
from qkov.report import writing
from tests.report_pages import Page
from tests.runs import make_results


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A complete run with scores and a prediction; not to be changed."""
    return make_results(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def run(finished, tmp_path):
    """A copy of it with its task files, to be changed."""
    shutil.copytree(finished.parent, tmp_path / "inputs")
    return tmp_path / "inputs" / finished.name


@pytest.fixture
def no_pictures(monkeypatch):
    """Draw nothing, which is what takes the time of a report."""
    monkeypatch.setattr("qkov.report.figures.draw", lambda data: {})


def report(*arguments):
    return CliRunner().invoke(cli.app, ["report", *map(str, arguments)])


def test_the_command_writes_a_page_and_its_figures(run):
    result = report(run)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(run / "report.html")
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert "A is “math”, B is “code”" in page.words
    assert "Nothing was tested" in page.words
    names = sorted(one.name for one in (run / "figures").iterdir())
    assert names == ["prediction.png", "prediction.svg", "scores-unsigned.png", "scores-unsigned.svg"]
    assert run_folder.open_run(run)  # the results are as they were


def test_the_same_run_gives_the_same_bytes(run):
    qkov.write_report(run)
    files = [run / "report.html", *sorted((run / "figures").iterdir())]
    first = [file.read_bytes() for file in files]
    for file in files:
        file.unlink()
    assert qkov.write_report(run_folder.open_run(run)) == run / "report.html"
    assert [file.read_bytes() for file in files] == first


def test_output_goes_where_it_is_asked_for(run, tmp_path):
    result = report(run, "--output", tmp_path / "new" / "page.html", "--top-pairs", 0)
    assert result.exit_code == 0, result.output
    assert Page((tmp_path / "new" / "page.html").read_text(encoding="utf-8")).data["samples"] == {"a": [], "b": []}
    assert (tmp_path / "new" / "figures" / "prediction.svg").exists()
    assert not (run / "report.html").exists()


def test_texts_are_shown_only_when_asked_for(run, no_pictures):
    text = json.loads((run.parent / "math.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
    assert report(run).exit_code == 0
    assert text not in (run / "report.html").read_text(encoding="utf-8")
    assert report(run, "--show-text").exit_code == 0
    assert text in Page((run / "report.html").read_text(encoding="utf-8")).data["texts"]["a"]


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    result = report(tmp_path)
    assert result.exit_code == 3
    assert "is no run" in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_an_edited_result_is_refused(run, no_pictures):
    file = run / "prediction.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    result = report(run)
    assert result.exit_code == 3
    assert "is not what the run wrote" in result.stderr
    assert not (run / "report.html").exists()


def test_a_changed_task_file_is_refused_with_texts_only(run, no_pictures):
    with open(run.parent / "math.jsonl", "a", encoding="utf-8") as stream:
        stream.write('{"id": "new", "text": "1 + 1 = 2"}\n')
    result = report(run, "--show-text")
    assert result.exit_code == 3
    assert "texts of task 'math' cannot be shown" in result.stderr
    assert report(run).exit_code == 0


def test_an_unfinished_run_is_refused(run):
    record = run_folder.read_record(run)
    run_folder.write_record(run, record | {"status": "incomplete"})
    assert "is not complete" in report(run).stderr


def test_a_run_without_scores_is_refused(run):
    record = run_folder.read_record(run)
    results = {name: one for name, one in record["results"].items() if not name.startswith("scores")}
    run_folder.write_record(run, record | {"results": results})
    with pytest.raises(errors.OptionError, match="at least one heatmap"):
        qkov.write_report(run)


def test_scores_too_large_for_memory_give_the_same_page(run, no_pictures, monkeypatch):
    first = qkov.write_report(run).read_bytes()
    monkeypatch.setattr(writing, "LARGEST", 0)
    before = sorted(run.iterdir())
    assert qkov.write_report(run).read_bytes() == first
    assert sorted(run.iterdir()) == before


def test_the_level_is_that_of_the_run(run, no_pictures):
    config = run_folder.open_run(run).config
    assert Page(qkov.write_report(run).read_text(encoding="utf-8")).data["alpha"] == config.statistics.alpha
