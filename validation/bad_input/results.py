"""Files that are not what they say: edited, cut off, pickled, or that bring code of their own."""

import contextlib
import functools
import json
import pickle
import tempfile
from pathlib import Path

import torch

import qkov
from qkov import errors, model_loading

from . import registry
from .registry import require

case = functools.partial(registry.case, group="Files")
_NO_RESULT = {"error": errors.ResultFileError, "status": 3}


@contextlib.contextmanager
def _saved(ground):
    """A heatmap of both tasks, saved in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "heatmap.safetensors"
        ground.metric().compute_heatmap("math", "code", progress=False).save(path)
        yield path


@case(
    "a result file in which one score was edited",
    says=("heatmap.safetensors is damaged", "checksum does not match", "Save the result again"),
    **_NO_RESULT,
)
def edited_score(ground):
    """Refused by its checksum."""
    with _saved(ground) as path:
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
        qkov.load_heatmap(path)


@case(
    "a result file in which a word of the description was edited",
    says=("heatmap.safetensors is damaged", "checksum does not match", "Save the result again"),
    **_NO_RESULT,
)
def edited_description(ground):
    """Refused by its checksum, which covers the description too."""
    with _saved(ground) as path:
        content = path.read_bytes()
        require(b"unsigned" in content, "the description does not name the variant")
        path.write_bytes(content.replace(b"unsigned", b"unsigneD"))
        qkov.load_heatmap(path)


@case(
    "a result file that was cut off", says=("heatmap.safetensors is not a whole", "save the result again"), **_NO_RESULT
)
def cut_off(ground):
    """Refused."""
    with _saved(ground) as path:
        path.write_bytes(path.read_bytes()[:-40])
        qkov.load_heatmap(path)


@case(
    "a result of another kind",
    says=("heatmap.safetensors holds format", "expected", "Load it with the version of qkov that wrote it"),
    **_NO_RESULT,
)
def other_result(ground):
    """Refused by its format."""
    with _saved(ground) as path:
        qkov.load_top_pairs(path)


class _Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@case(
    "a pickle, which would run code when it is read, given as a result",
    says=("heatmap.safetensors is not a whole safetensors file", "save the result again"),
    **_NO_RESULT,
)
def pickled_result(ground):
    """Refused without running anything, be it a plain pickle or a file of torch.save."""
    with tempfile.TemporaryDirectory() as folder:
        path, trace = Path(folder) / "heatmap.safetensors", Path(folder) / "it_ran"
        torch.save({"scores": _Runs(trace)}, path)
        with contextlib.suppress(errors.ResultFileError):
            qkov.load_heatmap(path)
        path.write_bytes(pickle.dumps(_Runs(trace)))
        try:
            qkov.load_heatmap(path)
        finally:
            require(not trace.exists(), "the code in the file was run")


@case(
    "a model that brings code of its own",
    error=errors.LayoutError,
    status=4,
    says=("FOLDER", "brings code of its own", "no code that comes with a model is run", "Load it yourself"),
)
def remote_code(ground):
    """The command line refuses it without running the code."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "it_ran"
        config = {
            "model_type": "own",
            "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
        }
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        (Path(folder) / "own.py").write_text(
            f"import pathlib\npathlib.Path({str(trace)!r}).touch()\n", encoding="utf-8"
        )
        try:
            model_loading.load_model(folder)
        finally:
            require(not trace.exists(), "the code in the folder was run")
