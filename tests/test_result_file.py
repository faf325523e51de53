"""Result files: equal bytes for equal results, and nothing that is damaged or foreign gets in."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import save_file

from qkov import errors, result_file
from tests.heatmaps import make_heatmap

KIND = {"format_name": "kind", "format_version": 3}
CONTENT = {"b": [1, "é"], "a": {"x": 0.1}}
ARRAYS = {"z": np.arange(6.0).reshape(2, 3), "empty": np.zeros((2, 0)), "i": np.arange(3)}


def test_written_content_and_arrays_come_back(tmp_path):
    path = result_file.write(tmp_path / "x.safetensors", CONTENT, ARRAYS, **KIND)
    content, arrays = result_file.read(path, **KIND)
    assert content == CONTENT
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_bytes_depend_on_the_values_alone(tmp_path):
    first = result_file.write(tmp_path / "x", CONTENT, ARRAYS, **KIND).read_bytes()
    reordered = {name: np.asfortranarray(ARRAYS[name]) for name in reversed(ARRAYS)}
    second = result_file.write(tmp_path / "y", dict(reversed(CONTENT.items())), reordered, **KIND).read_bytes()
    assert first == second


def test_digest_sees_names_shapes_and_types():
    digests = {
        result_file.digest({}, {"x": np.zeros(4)}),
        result_file.digest({}, {"y": np.zeros(4)}),
        result_file.digest({}, {"x": np.zeros((2, 2))}),
        result_file.digest({}, {"x": np.zeros(4, np.int64)}),
        result_file.digest({"a": 1}, {"x": np.zeros(4)}),
    }
    assert len(digests) == 5


def in_parts(array, size):
    """The same array, given some rows at a time."""
    return result_file.InParts(
        array.shape, array.dtype, lambda: (array[start : start + size] for start in range(0, len(array), size))
    )


@pytest.mark.parametrize("content", [CONTENT, {'"\\\n\x7f/': "\ud800\U0001f600"}])
def test_an_array_in_parts_gives_the_same_bytes(tmp_path, content):
    arrays = {
        f"{kind}.{count}": np.arange(count * 3).reshape(count, 3).astype(kind)
        for kind in ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
        for count in (0, 1, 7)
    }
    arrays |= {"single": np.array(2.5), "z.y": np.arange(10.0)}
    whole = result_file.write(tmp_path / "whole", content, arrays, **KIND).read_bytes()
    for size in (1, 2, 100):
        given = {name: in_parts(array, size) if array.ndim else array for name, array in arrays.items()}
        assert result_file.digest(content, given) == result_file.digest(content, arrays)
        assert result_file.write(tmp_path / "parts", content, given, **KIND).read_bytes() == whole
        np.testing.assert_array_equal(np.asarray(given["z.y"]), arrays["z.y"])


@pytest.mark.parametrize("piece", [1, 24, 50, 10**6])
def test_an_array_is_read_in_parts(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(result_file, "PIECE", piece)
    path = result_file.write(tmp_path / "x", CONTENT, ARRAYS, **KIND)
    content, arrays = result_file.read(path, **KIND, in_parts="z")
    assert content == CONTENT
    assert isinstance(arrays["z"], result_file.InParts)
    assert isinstance(arrays["i"], np.ndarray)
    np.testing.assert_array_equal(np.concatenate(list(arrays["z"].parts())), ARRAYS["z"])
    np.testing.assert_array_equal(np.asarray(arrays["z"]), ARRAYS["z"])
    assert all(part.size * 8 <= max(piece, 24) for part in arrays["z"].parts())
    assert np.asarray(result_file.read(path, **KIND, in_parts="e")[1]["empty"]).shape == (2, 0)


def test_a_flipped_bit_is_noticed_in_an_array_in_parts(tmp_path):
    path = tmp_path / "x"
    whole = result_file.write(path, CONTENT, {"z": ARRAYS["z"]}, **KIND).read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(errors.ResultFileError):
            result_file.read(path, **KIND, in_parts="z")


def test_any_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "x"
    whole = result_file.write(path, CONTENT, {"z": ARRAYS["z"]}, **KIND).read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(errors.ResultFileError):
                result_file.read(path, **KIND)


def test_any_truncation_is_noticed(tmp_path):
    path = tmp_path / "x"
    whole = result_file.write(path, CONTENT, ARRAYS, **KIND).read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(errors.ResultFileError, match="not a whole safetensors file"):
            result_file.read(path, **KIND)
    path.write_bytes(whole + b"\0")
    with pytest.raises(errors.ResultFileError):
        result_file.read(path, **KIND)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (None, r"metadata keys are \[\]"),
        ({"format": "pt"}, r"metadata keys are \['format'\]"),
        ({"qkov": "{"}, "is not JSON"),
        ({"qkov": "[1]"}, "not written as this package writes it"),
        ({"qkov": '{"format": "kind"}'}, "not written as this package writes it"),
        ({"qkov": '{"format":"kind","version":4}'}, "version 4; expected 'kind', version 3"),
        ({"qkov": '{"format":"other","version":3}'}, "format 'other'"),
        ({"qkov": '{"format":"kind","version":3}'}, "checksum does not match"),
        ({"qkov": '{"version":NaN}'}, "is not JSON"),
        ({"qkov": "[" * 100_000}, "is not JSON"),
    ],
)
def test_foreign_files_are_refused(tmp_path, metadata, message):
    save_file({"x": np.zeros(3)}, tmp_path / "x", metadata=metadata)
    with pytest.raises(errors.ResultFileError, match=message):
        result_file.read(tmp_path / "x", **KIND)


def test_a_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        result_file.read(tmp_path / "none", **KIND)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = result_file.write(tmp_path / "x", CONTENT, ARRAYS, **KIND)
    before = path.read_bytes()

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        result_file.write(path, CONTENT, {}, **KIND)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x"]


def test_file_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (calls.append(name), real(*args)))
    result_file.write(tmp_path / "x", CONTENT, ARRAYS, **KIND)
    assert calls == ["fsync", "replace", "fsync"]


def test_a_system_without_folder_handles_can_write(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_DIRECTORY")
    path = result_file.write(tmp_path / "x", CONTENT, ARRAYS, **KIND)
    assert result_file.read(path, **KIND)[0] == CONTENT


def test_metadata_is_one_key_of_sorted_json(tmp_path):
    raw = make_heatmap().save(tmp_path / "x").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert list(header["__metadata__"]) == ["qkov"]
    description = header["__metadata__"]["qkov"]
    assert description == result_file.canonical_json(json.loads(description))
