"""What is given to `qkov run`: configurations, files of samples, folders; nothing is computed, and nothing overwritten."""

import contextlib
import functools
import json
import tempfile
from pathlib import Path

import qkov
from qkov import errors, run_config, run_folder, task_files

from . import registry
from .ground import build_model
from .registry import require

case = functools.partial(registry.case, group="Runs")
_CONFIG = {"error": errors.ConfigError, "status": 2}
_LINE = {"error": errors.TaskFileError, "status": 3}
LINES = [{"id": "s0", "input_ids": [3, 4, 5]}, {"id": "s1", "input_ids": [5, 4, 3]}]


@contextlib.contextmanager
def _folder():
    with tempfile.TemporaryDirectory(prefix="qkov-") as folder:
        yield Path(folder)


def _read_config(text):
    with _folder() as folder:
        (folder / "run.yaml").write_text(text)
        run_config.read_config(folder / "run.yaml")


def _read_lines(*lines):
    with _folder() as folder:
        (folder / "math.jsonl").write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))
        task_files.read_task(folder / "math.jsonl")


@contextlib.contextmanager
def _inputs():
    """A model and two tasks of token ids; yields the folder and the configuration of a quick run."""
    with _folder() as folder:
        build_model().save_pretrained(folder / "model")
        for task in ("math", "code"):
            (folder / f"{task}.jsonl").write_text("\n".join(map(json.dumps, LINES)))
        content = {"model": "./model", "tasks": {task: f"{task}.jsonl" for task in ("math", "code")}}
        content |= {"source": "math", "target": "code", "statistics": {"run": False}, "prediction": {"run": False}}
        yield folder, run_config.RunConfig.from_dict(content, folder=folder)


def _complete(folder):
    """A folder that says of itself that it is a complete run, with one file of results."""
    config = run_config.RunConfig.from_dict(
        {"model": "x", "tasks": {"a": "a", "b": "b"}, "source": "a", "target": "b"}, folder=folder
    )
    record = run_folder.begin_run(folder / "run", config, {"command": "", "data": {}})
    (folder / "run" / "scores-unsigned.safetensors").write_bytes(b"scores")
    digest = run_folder.file_digest(folder / "run" / "scores-unsigned.safetensors")
    results = {"scores-unsigned.safetensors": {"sha256": digest}}
    run_folder.write_record(folder / "run", {**record, "status": "complete", "results": results})
    return folder / "run"


@case("a configuration with a misspelt key", says=("run.yaml", "key 'modle'", "Did you mean 'model'"), **_CONFIG)
def misspelt_key(ground):
    """Refused by file and key, with the key that was meant."""
    _read_config("modle: gpt2")


@case(
    "a configuration that gives a key twice", says=("line 2 gives the key 'model' a second time", "keep one"), **_CONFIG
)
def key_twice(ground):
    """Refused, where YAML would take the last."""
    _read_config("model: a\nmodel: b")


@case("a configuration with a tag that runs code", says=("run.yaml", "is not plain YAML", "Expected lines"), **_CONFIG)
def tag_that_runs_code(ground):
    """Refused, and nothing is run."""
    with _folder() as folder:
        target = folder / "made"
        with contextlib.suppress(errors.ConfigError):
            _read_config(f"model: !!python/object/apply:os.mkdir ['{target}']")
        require(not target.exists(), "code of a configuration was run")
    _read_config("model: !!python/object/apply:os.mkdir ['x']")


@case(
    "anchors that stand for more than memory holds", says=("line 2 uses the anchor", "write the value out"), **_CONFIG
)
def anchors(ground):
    """Refused before anything is built of them."""
    _read_config("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]")


@case(
    "a file of samples with a line that is no JSON", says=("math.jsonl', line 2 is not JSON", "Expected one"), **_LINE
)
def line_of_no_json(ground):
    """Refused by file and line."""
    _read_lines(LINES[0], "{")


@case("a file of samples that gives an id twice", says=("line 3: id 's0' is that of line 1", "each id once"), **_LINE)
def id_twice(ground):
    """Refused with both lines."""
    _read_lines(*LINES, LINES[0])


@case("a sample of a file with an empty text", says=("line 1 (id 's0')", "leave the sample out"), **_LINE)
def empty_line(ground):
    """Refused by file, line and id."""
    _read_lines({"id": "s0", "text": ""})


@case(
    "a sample longer than the run's most tokens",
    says=("line 1 (id 's0') has 3 tokens", "raise tokens.max_length"),
    **_LINE,
)
def long_sample(ground):
    """Refused unless cutting off was asked for."""
    with _inputs() as (folder, config):
        changed = {**config.to_dict(), "tokens": {"max_length": 2}}
        qkov.run_measurement(run_config.RunConfig.from_dict(changed, folder=folder), folder / "run")


@case("a replay on a file of samples that has changed", says=("math.jsonl' has changed", "Restore the file"), **_LINE)
def changed_samples(ground):
    """Refused with both checksums, before anything is computed."""
    with _inputs() as (folder, config):
        digest = task_files.read_task(folder / "math.jsonl").sha256
        (folder / "math.jsonl").write_text(json.dumps(LINES[0]))
        task_files.read_task(config.task_path("math"), sha256=digest)


@case(
    "texts and a model without a tokenizer", error=errors.TokenizerError, status=4,
    says=("has no tokenizer", "Save one beside the model"),
)  # fmt: skip
def no_tokenizer(ground):
    """Refused before the weights are read."""
    with _inputs() as (folder, config):
        (folder / "math.jsonl").write_text('{"id": 1, "text": "x"}')
        qkov.run_measurement(config, folder / "run")


@case(
    "a run into the folder of another", error=errors.OptionError, status=2,
    says=("holds a complete run, which is not overwritten", "Name another folder"),
)  # fmt: skip
def run_not_overwritten(ground):
    """Refused, and every file is what it was."""
    with _inputs() as (folder, config):
        path = _complete(folder)
        before = {one: one.read_bytes() for one in path.iterdir()}
        try:
            qkov.run_measurement(config, path)
        finally:
            require({one: one.read_bytes() for one in path.iterdir()} == before, "the run was changed")


@case(
    "a run of which a result was edited", error=errors.ResultFileError, status=3,
    says=("scores-unsigned.safetensors' is not what the run wrote", "Restore it, or make the run again"),
)  # fmt: skip
def edited_run(ground):
    """Refused with both checksums."""
    with _folder() as folder:
        path = _complete(folder)
        (path / "scores-unsigned.safetensors").write_bytes(b"others")
        run_folder.open_run(path)


@case(
    "a run that was interrupted, taken for a result", error=errors.RunFolderError, status=3,
    says=("is not complete", "To go on: qkov run"),
)  # fmt: skip
def incomplete_run(ground):
    """Refused with the command that goes on."""
    with _folder() as folder:
        path = _complete(folder)
        run_folder.write_record(path, {**run_folder.read_record(path), "status": "incomplete"})
        run_folder.open_run(path)
