"""Scores in files: the same bits as in memory, files that numpy reads, nothing left behind, and memory that does not grow."""

import errno
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qkov import durable, errors, heatmap, memory, resources, score_files
from qkov.geometry import BLOCKS
from tests.heatmaps import make_heatmap, without_layer_one

ROOT = Path(__file__).resolve().parent.parent


def in_files(made, folder):
    """The same heatmap with its scores in files."""
    files = score_files.ScoreFiles(folder, {block: made.arrays[block].shape for block in BLOCKS})
    for block in BLOCKS:
        for (layer, unit), scores in made.each_slice(block):
            files.put(block, layer, unit, scores)
    fields = {name: getattr(made, name) for name in heatmap.Heatmap.__dataclass_fields__}
    return heatmap.Heatmap(**fields | {"arrays": files.finish()})


CASES = {
    "plain": {},
    "signed": {"variant": "signed", "pool": "pooled"},
    "layers out of order": {"layers": (5, 2)},
    "no samples of B": {"num_b": 0},
    "absent slices": without_layer_one(make_heatmap()),
    "awkward ids": {"sample_a": (2**80, -1, 0), "sample_b": ("a\0", "a")},
}


@pytest.mark.parametrize("name", CASES)
def test_everything_of_a_heatmap_in_files_is_as_in_memory(tmp_path, name):
    made = make_heatmap(**CASES[name])
    found = in_files(made, tmp_path / "scores")
    assert (found.memory_mapped, made.memory_mapped) == (True, False)
    assert found.fingerprint == made.fingerprint
    assert found == made
    assert repr(found) == repr(made)
    assert found._repr_html_() == made._repr_html_()
    for block in BLOCKS:
        np.testing.assert_array_equal(found.arrays[block], made.arrays[block])
        np.testing.assert_array_equal(found.mean_map(block), made.mean_map(block))
        assert found.top_conflicts(block, top_k=7) == made.top_conflicts(block, top_k=7)
        assert list(found[block]) == list(made[block])
        np.testing.assert_array_equal(found[block]["scores"], made[block]["scores"])
        np.testing.assert_array_equal(found[block]["layer_head_avg"], made[block]["layer_head_avg"])
        assert found[block]["top_conflicts"] == made[block]["top_conflicts"]
    for level in ("slice", "pair"):
        assert found.to_dataframe(level).equals(made.to_dataframe(level))
    assert found.data.identical(made.data)
    assert found.by_slice.identical(made.by_slice)
    assert found.save(tmp_path / "one").read_bytes() == made.save(tmp_path / "two").read_bytes()
    loaded = heatmap.load_heatmap(tmp_path / "one", scores_path=tmp_path / "loaded")
    assert loaded.memory_mapped
    assert loaded == made == heatmap.load_heatmap(tmp_path / "one")


def test_the_picture_is_the_same(tmp_path):
    made = make_heatmap()
    assert in_files(made, tmp_path / "scores").plot().to_svg() == made.plot().to_svg()


def test_a_file_is_a_plain_numpy_array_of_slices(tmp_path):
    made = make_heatmap()
    found = in_files(made, tmp_path / "scores")
    assert sorted(os.listdir(tmp_path / "scores")) == ["K.npy", "O.npy", "Q.npy", "V.npy"]
    for block in BLOCKS:
        stored = np.load(tmp_path / "scores" / f"{block}.npy", mmap_mode="r", allow_pickle=False)
        np.testing.assert_array_equal(stored.transpose(2, 3, 0, 1), made.arrays[block])
        assert found.arrays[block].base is not None  # a view, nothing was copied
        with pytest.raises(ValueError, match="read-only"):
            found.arrays[block][0, 0, 0, 0] = 1.0


def test_a_slice_is_contiguous_and_alone(tmp_path):
    made = make_heatmap()
    for one in (made, in_files(made, tmp_path / "scores")):
        scores = one.slice_scores("K", 1, 0)
        assert scores.flags.c_contiguous
        np.testing.assert_array_equal(scores, made.arrays["K"][:, :, 1, 0])
        scores[:] = 0  # a copy
        assert one == made


def test_zeros_lose_their_sign_and_every_nan_is_the_same(tmp_path):
    made = make_heatmap(**without_layer_one(make_heatmap()))
    files = score_files.ScoreFiles(tmp_path / "scores", {block: made.arrays[block].shape for block in BLOCKS})
    odd = np.array([0xFFF8000000000001], np.uint64).view(np.float64)[0]
    for block in BLOCKS:
        rows = np.where(np.isnan(made.arrays[block]), odd, -0.0)
        files.put_rows(block, 0, rows[:1])
        files.put_rows(block, 1, rows[1:])
    zeros = {block: np.where(np.isnan(made.arrays[block]), np.nan, 0.0) for block in BLOCKS}
    expected = make_heatmap(**without_layer_one(make_heatmap()) | {"arrays": zeros})
    fields = {name: getattr(made, name) for name in heatmap.Heatmap.__dataclass_fields__}
    assert heatmap.Heatmap(**fields | {"arrays": files.finish()}).identical(expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_in_a_file_that_is_not_finite_is_refused_with_its_place(tmp_path, bad):
    made = make_heatmap()
    files = score_files.ScoreFiles(tmp_path / "scores", {block: made.arrays[block].shape for block in BLOCKS})
    for block in BLOCKS:
        for (layer, unit), scores in made.each_slice(block):
            if (block, layer, unit) == ("K", 1, 0):
                scores = scores.copy()
                scores[2, 1] = bad
            files.put(block, layer, unit, scores)
    with pytest.raises(errors.NonFiniteError, match=r"Block K, layer 1, kv head 0 .*\(1 slices do\)"):
        make_heatmap(arrays=files.finish())


def test_a_slice_never_written_is_missing(tmp_path):
    made = make_heatmap()
    files = score_files.ScoreFiles(tmp_path / "scores", {block: made.arrays[block].shape for block in BLOCKS})
    for block in BLOCKS:
        for (layer, unit), scores in made.each_slice(block):
            if (block, layer, unit) != ("O", 0, 3):
                files.put(block, layer, unit, scores)
    with pytest.raises(errors.NonFiniteError, match=r"Block O, layer 0, head 3 "):
        make_heatmap(arrays=files.finish())


def test_a_number_in_a_file_where_the_model_has_no_slice_is_refused(tmp_path):
    fields = without_layer_one(make_heatmap())
    files = score_files.ScoreFiles(tmp_path / "scores", {block: fields["arrays"][block].shape for block in BLOCKS})
    for block in BLOCKS:
        files.put_rows(block, 0, make_heatmap().arrays[block])
    with pytest.raises(errors.ShapeError, match="a slice declared absent"):
        make_heatmap(**fields | {"arrays": files.finish()})


def test_files_of_another_shape_are_refused(tmp_path):
    found = in_files(make_heatmap(), tmp_path / "scores")
    with pytest.raises(errors.ShapeError, match="Scores of block Q have shape"):
        make_heatmap(num_a=2, arrays=found._stored)


def test_head_types_are_added_without_a_copy(tmp_path, monkeypatch):
    found = in_files(make_heatmap(), tmp_path / "scores")
    monkeypatch.setattr(heatmap.head_types, "fitting", lambda types, _: types)
    assert found.with_head_types("types").memory_mapped


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    made = make_heatmap()
    found = in_files(made, tmp_path / "scores")
    saved = made.save(tmp_path / "saved")
    for folder in (tmp_path / "scores", saved):
        with pytest.raises(errors.OptionError, match="a new or empty folder"):
            score_files.new_folder(folder)
    with pytest.raises(errors.OptionError, match="a new or empty folder"):
        heatmap.load_heatmap(saved, scores_path=tmp_path / "scores")
    assert found == made


def test_a_file_that_was_cut_is_noticed(tmp_path):
    found = in_files(make_heatmap(), tmp_path / "scores")
    path = tmp_path / "scores" / "V.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(errors.ResultFileError, match="it was cut"):
        found.to_dataframe("slice")


@pytest.mark.parametrize("fail_at", range(1, 24))
def test_a_refused_write_leaves_no_file(tmp_path, monkeypatch, fail_at):
    from tests.test_durable import Recorded

    made = make_heatmap()
    monkeypatch.setattr(durable, "os", Recorded(fail_at=fail_at, number=errno.ENOSPC))
    with pytest.raises(errors.DiskError):
        heatmap.load_heatmap(made.save(tmp_path / "x"), scores_path=tmp_path / "scores")
    left = list((tmp_path / "scores").glob("**/*"))
    assert not left, (fail_at, left)


def test_a_damaged_file_leaves_no_scores(tmp_path):
    path = make_heatmap().save(tmp_path / "x")
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(errors.ResultFileError, match="damaged"):
        heatmap.load_heatmap(path, scores_path=tmp_path / "scores")
    assert os.listdir(tmp_path / "scores") == []


def test_scores_that_do_not_fit_the_disk_are_refused(tmp_path, monkeypatch):
    path = make_heatmap().save(tmp_path / "x")
    needed = 8 * sum(scores.size for scores in make_heatmap().arrays.values())

    def free(num_bytes):
        monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: type("usage", (), {"free": num_bytes}))

    free(math.ceil(needed / resources.SHARE))
    heatmap.load_heatmap(path, scores_path=tmp_path / "fits")
    free(int(needed / resources.SHARE) - 1)
    with pytest.raises(errors.DiskError, match=r"a heatmap of 144 scores needs about 1\.15 kB .*compute_summary\)"):
        heatmap.load_heatmap(path, scores_path=tmp_path / "scores")
    assert os.listdir(tmp_path / "scores") == []


def test_what_would_copy_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    found = in_files(make_heatmap(), tmp_path / "scores")
    monkeypatch.setattr(memory, "available_bytes", lambda: 8)
    repr(found)
    found.to_dataframe("slice")
    found["Q"]["scores"]
    for copy in (lambda: found["K"]["scores"], lambda: found.data, lambda: found.to_dataframe("pair")):
        with pytest.raises(errors.MemoryLimitError, match="Use slice_scores"):
            copy()


def test_hostile_arrays_are_refused_before_a_file_is_made(tmp_path):
    from qkov import result_file

    content, arrays = make_heatmap()._parts()
    kind = {"format_name": "qkov-heatmap", "format_version": 1}
    for change in (
        {"scores.Q": np.zeros(3)}, {"scores.Q": np.zeros((3, 2, 2, 4), np.float32)}, {"scores.Q": None},
        {"scores.Q": np.zeros((3, 2, 2, 5))},
    ):  # fmt: skip
        changed = {name: array for name, array in (arrays | change).items() if array is not None}
        path = result_file.write(tmp_path / "x", content, changed | {"scores.../y": np.zeros(2)}, **kind)
        with pytest.raises(errors.ResultFileError, match="not a consistent heatmap"):
            heatmap.load_heatmap(path, scores_path=tmp_path / "scores")
        assert os.listdir(tmp_path / "scores") == []


MEASURED = """
import os, sys
import numpy as np, torch
from qkov import heatmap, plots, score_frame, scoring, tables
from qkov.geometry import BLOCKS
from tests.test_score_files import Layout, peak

def made(folder, count, layers):
    with score_frame.Frame([Layout(one) for one in range(layers)], range(6), count, count, folder) as frame:
        for place, layout in enumerate(frame.layouts):
            for block in BLOCKS:
                for column, unit in frame.units(layout, block):
                    scores = torch.full((count, count), 1.0 + place, dtype=torch.float64)
                    frame.put(block, place, column, scoring.SliceScores(scores, 1, {}))
        ids = tuple(range(count))
        return heatmap.Heatmap(task_a="a", task_b="b", sample_a=ids, sample_b=ids, attributes={}, **frame.fields())

def used(found, path):
    repr(found), found.to_dataframe("slice"), found.plot(), found.by_slice
    heatmap.load_heatmap(found.save(path), scores_path=path + ".scores")

os.fsync = lambda handle: None  # no power is lost
folder, in_memory = sys.argv[1], sys.argv[2] == "memory"
used(made(folder + "/small", 20, 2), folder + "/small.file")
before = peak()
large = made(None if in_memory else folder + "/large", 295, 12)  # 12 layers, 24 slices each: 201 MB
if in_memory:
    repr(large)
else:
    used(large, folder + "/large.file")
print(sum(scores.nbytes for scores in large.arrays.values()), peak() - before)
"""


class Layout:
    """A layer of six heads."""

    num_heads = num_kv_heads = 6

    def __init__(self, layer):
        self.layer = layer

    def kv_head(self, head):
        return head


def peak():
    """Most memory that this process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from Linux")
@pytest.mark.parametrize("place", ["files", "memory"])
def test_memory_grows_by_little_of_the_scores_in_files(tmp_path, place):
    """And by all of them where they are in memory, or nothing would be measured."""
    command = [sys.executable, "-c", MEASURED, str(tmp_path), place]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    scores, growth = map(int, done.stdout.split() or [done.stderr, ""])
    assert 200e6 < scores < 210e6
    assert growth < 40e6 if place == "files" else growth > scores
