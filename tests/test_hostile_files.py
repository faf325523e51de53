"""Result files made to do harm: whatever the bytes or the content, a reader answers with a result or one kind of error."""

import contextlib
import copy
import functools
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import qkov
from qkov import errors, result_file
from tests import test_prediction
from tests.diagonals import make_diagonal
from tests.heatmaps import make_heatmap
from tests.statistics_models import three_tasks

ROOT = Path(__file__).resolve().parent.parent
KIND = {"format_name": "kind", "format_version": 3}

pytestmark = pytest.mark.filterwarnings("ignore::qkov.errors.QKOVWarning")


@pytest.fixture(autouse=True, scope="module")
def unsynced():
    """Thousands of files are written here, and no power is lost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


# Bytes


def description(**changes):
    found = {"format": "kind", "version": 3, "content": {}}
    return result_file.canonical_json(found | {"sha256": result_file.digest(found, {})} | changes)


def raw(header, data=b"", *, length=None):
    """A safetensors file by hand: length of the header, header, data."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def with_tensors(data, **tensors):
    """A file whose description is whole and whose tensors are ``name=(dtype, shape, offsets)``."""
    described = {name: dict(zip(("dtype", "shape", "data_offsets"), one, strict=True)) for name, one in tensors.items()}
    return raw({"__metadata__": {"qkov": description()}, **described}, data)


WHOLE = raw({"__metadata__": {"qkov": description()}})
FLOAT = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
HOSTILE = {
    "nothing": b"",
    "header of 2^63 bytes": raw(b"{}", length=2**63),
    "header of 2^64 - 1 bytes": raw(b"{}", length=2**64 - 1),
    "header of 100 MB": raw(b"{}", length=99_999_999),
    "lists in lists": raw(b"[" * 100_000),
    "objects in objects": raw(b'{"a":' * 100_000),
    "lists in the description": raw({"__metadata__": {"qkov": "[" * 100_000}}),
    "objects in the description": raw({"__metadata__": {"qkov": '{"a":' * 100_000}}),
    "NaN in the header": raw(b'{"a":NaN}'),
    "NaN in the description": raw({"__metadata__": {"qkov": '{"content":NaN,"format":"kind","version":3}'}}),
    "infinity in the description": raw({"__metadata__": {"qkov": '{"content":Infinity,"format":"kind","version":3}'}}),
    "a number of 5,000 digits": raw({"__metadata__": {"qkov": '{"content":' + "9" * 5000 + "}"}}),
    "a float beyond all": raw({"__metadata__": {"qkov": '{"content":1e999}'}}),
    "a key twice": raw({"__metadata__": {"qkov": description()[:-1] + ',"version":3}'}}),
    "a tensor twice": raw(
        f'{{"a":{FLOAT},"a":{FLOAT},"__metadata__":{json.dumps({"qkov": description()})}}}'.encode(), b"1234"
    ),
    "metadata twice": raw(b'{"__metadata__":{},"__metadata__":{}}'),
    "metadata of a number": raw({"__metadata__": {"qkov": 3}}),
    "metadata as a tensor": raw({"__metadata__": json.loads(FLOAT)}, b"1234"),
    "half a character": raw(b'{"__metadata__":{"qkov":"\\ud800"}}'),
    "offsets that overlap": with_tensors(b"1234", a=("F32", [1], [0, 4]), b=("F32", [1], [0, 4])),
    "offsets with a gap": with_tensors(b"12345678", a=("F32", [1], [4, 8])),
    "offsets beyond the end": with_tensors(b"", a=("F32", [1], [0, 4])),
    "offsets backwards": with_tensors(b"1234", a=("F32", [1], [4, 0])),
    "a negative size": with_tensors(b"1234", a=("F32", [-1], [0, 4])),
    "sizes whose product is 2^80": with_tensors(b"1234", a=("F32", [2**40, 2**40], [0, 4])),
    "sizes whose product is 0": with_tensors(b"", a=("F32", [2**62, 0], [0, 0])),
    "64 axes and more": with_tensors(b"1234", a=("F32", [1] * 70, [0, 4])),
    "another length than said": with_tensors(b"1234", a=("F64", [1], [0, 4])),
    "bytes behind": WHOLE + b"\0",
    **{
        f"type {name}": with_tensors(bytes(size), a=(name, [count], [0, size]))
        for name, count, size in (
            ("BF16", 1, 2), ("F8_E4M3", 1, 1), ("F8_E5M2", 1, 1), ("F8_E8M0", 1, 1), ("F4", 2, 1), ("F6_E2M3", 4, 3),
            ("C64", 1, 8), ("F999", 1, 1),
        )
    },
}  # fmt: skip


def test_the_files_would_be_read_without_what_is_wrong_with_them(tmp_path):
    (tmp_path / "x").write_bytes(WHOLE)
    assert result_file.read(tmp_path / "x", **KIND) == ({}, {})


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path, name):
    (tmp_path / "x").write_bytes(HOSTILE[name])
    with pytest.raises(errors.ResultFileError):
        result_file.read(tmp_path / "x", **KIND)


MEASURED = """
import pathlib, resource, sys
from qkov import errors, result_file
import numpy, safetensors.numpy
def read(path):
    try:
        return result_file.read(path, format_name="kind", format_version=3)
    except errors.ResultFileError:
        return "refused"
files = sorted(pathlib.Path(sys.argv[1]).iterdir())
read(files[0])
pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print({read(path) for path in files})
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is read from Linux")
def test_no_hostile_file_makes_a_reader_ask_for_much_memory(tmp_path):
    """64 MiB beyond what the reader holds anyway, address space included; the largest of these files has 0.6 MB."""
    for number, content in enumerate(HOSTILE.values()):
        (tmp_path / f"{number:02d}").write_bytes(content)
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "{'refused'}", done.stderr


@functools.cache
def saved(folder):
    """Bytes of a small result."""
    arrays = {"z": np.arange(6.0).reshape(2, 3), "i": np.arange(3)}
    return result_file.write(folder / "good", {"a": [1, "x"], "b": {}}, arrays, **KIND).read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_any_edit_of_bytes_is_refused_or_changes_nothing(tmp_path, data):
    whole = saved(tmp_path)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, min(len(whole), start + 12)))
    put = data.draw(st.binary(max_size=12) | st.sampled_from([b'"', b"{", b"}", b",", b"\\u0000", b"1e9", b'"a":1,']))
    (tmp_path / "x").write_bytes(whole[:start] + put + whole[stop:])
    try:
        content, arrays = result_file.read(tmp_path / "x", **KIND)
    except errors.ResultFileError:
        return
    assert content == {"a": [1, "x"], "b": {}}
    assert {name: array.tolist() for name, array in arrays.items()} == {"z": [[0, 1, 2], [3, 4, 5]], "i": [0, 1, 2]}


# Content: the checksum is right, as anyone can compute it


@functools.cache
def results():
    """One result of every kind with its loader."""
    collector = three_tasks()
    one, other = (make_diagonal("llama", task=task, include="attention", seed=seed) for seed, task in enumerate("ab"))
    statistics = qkov.QKOVStatistics(n_permutations=19, n_splits=2)
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=0)
    scores = metric.compute_heatmap("a", "b", progress=False)
    return {
        "heatmap": (make_heatmap(), qkov.load_heatmap),
        "statistics": (statistics.test_heatmap(collector, "a", "b", "r", seed=5, progress=False), qkov.load_statistics),
        "conflicts": (qkov.detect_conflicts(collector, "a", "b", progress=False), qkov.load_conflicts),
        "prediction": (qkov.predict_change(collector, "a", "b", progress=False), qkov.load_prediction),
        "diagonal": (one, qkov.load_fisher_diagonal),
        "importance": (qkov.compute_fisher_importance(one), qkov.load_fisher_importance),
        "masks": (qkov.get_fisher_pruning_masks(one, share=0.5), qkov.load_pruning_masks),
        "overlap": (qkov.compute_fisher_overlap([one, other], share=0.5), qkov.load_mask_overlap),
        "types": (qkov.score_head_types(test_prediction.model("llama"), length=12), qkov.load_head_types),
        "summary": (metric.compute_summary("a", "b", top_k=2, progress=False), qkov.load_pair_summary),
        "pairs": (qkov.describe_top_pairs(scores, collector, top_k=1), qkov.load_top_pairs),
    }


KINDS = (
    "heatmap", "statistics", "conflicts", "prediction", "diagonal", "importance", "masks", "overlap", "types", "summary",
    "pairs",
)  # fmt: skip
GONE = object()
WRONG = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        3,
        10**12,
        10**30,
        1.5,
        1e300,
        "",
        "x",
        "NaN",
        [],
        {},
        ["x"],
        [None],
        {"x": 1},
        [[[]]],
        [10**12],
        GONE,
    ]
)


def places(value, path=()):
    """Paths to every part of a JSON value, of long lists only the first three."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def replaced(value, path, new):
    """The value with another part at a path, or without it."""
    if not path:
        return [] if new is GONE else new
    value = copy.deepcopy(value)
    holder = functools.reduce(lambda inner, key: inner[key], path[:-1], value)
    if new is GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    return value


ARRAY_CHANGES = (
    lambda array: GONE,
    lambda array: array.reshape(-1)[:1],
    lambda array: array[:0],
    lambda array: array.reshape(*array.shape, 1),
    lambda array: array.astype(np.int8),
    lambda array: array.astype(bool),
    lambda array: np.full(array.shape, np.nan),
    lambda array: np.zeros((2,) * 12, np.uint8),
)


@functools.cache
def parts_of(kind, folder):
    """Format, content and arrays of a saved result."""
    path = results()[kind][0].save(folder / "good")
    with safe_open(path, "numpy") as file:
        described = json.loads(file.metadata()["qkov"])
    named = {"format_name": described["format"], "format_version": described["version"]}
    return named, *result_file.read(path, **named)


def read_or_refuse(kind, path):
    """Whether a loader refused; any other error comes out."""
    try:
        results()[kind][1](path)
    except errors.ResultFileError:
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_content_is_a_result_or_refused(tmp_path_factory, kind):
    folder = tmp_path_factory.mktemp(kind)
    named, content, arrays = parts_of(kind, folder)
    refused = []

    @settings(max_examples=60)
    @given(path=st.sampled_from(list(places(content))), new=WRONG)
    def one(path, new):
        changed = result_file.write(folder / "x", replaced(content, path, new), arrays, **named)
        refused.append(read_or_refuse(kind, changed))

    one()
    assert any(refused)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_arrays_are_a_result_or_refused(tmp_path_factory, kind):
    folder = tmp_path_factory.mktemp(kind)
    named, content, arrays = parts_of(kind, folder)
    refused = []
    for name in list(arrays)[:12]:
        for change in ARRAY_CHANGES:
            changed = {**arrays, name: change(arrays[name])}
            kept = {key: array for key, array in changed.items() if array is not GONE}
            refused.append(read_or_refuse(kind, result_file.write(folder / "x", content, kept, **named)))
    assert any(refused) == bool(arrays)  # a list of pairs is all description


def test_every_loader_is_tried():
    names = [name for name in dir(qkov) if name.startswith("load_") and name != "load_head_table"]
    assert {load.__name__ for _, load in results().values()} == set(names)
    assert set(results()) == set(KINDS)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "diagonal"])  # which has a guard of its own
def test_a_loader_that_lets_errors_through_is_noticed(tmp_path, monkeypatch, kind):
    """With a guard that catches nothing, an empty content makes another error come out."""
    named, _, arrays = parts_of(kind, tmp_path)
    path = result_file.write(tmp_path / "x", [], arrays, **named)
    assert read_or_refuse(kind, path)
    monkeypatch.setattr(result_file, "consistent", lambda path, what: contextlib.nullcontext())
    with pytest.raises((TypeError, AttributeError, KeyError)):
        results()[kind][1](path)
