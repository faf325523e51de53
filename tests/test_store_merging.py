"""Merging stores gives the store, byte for byte, that one collection of the same passes would have made."""

import warnings

import numpy as np
import pytest
import torch

import qkov
from qkov import errors, store_contents, store_merging, store_repair
from tests.builders import build_batch, build_model
from tests.stores import digest, flip, make_store, same_samples, shard_of

TASKS = ("a", "b")


def call(collector, model, part, task, **options):
    """One call of a collection: three samples of a task, of lengths for which some are kept as whole gradients."""
    batch = build_batch((5 + part, 20, 3), seed=10 * part + TASKS.index(task))
    ids = [f"{part}-{number}" for number in range(3)]
    options = {"micro_batch": 2, "progress": False, "clusters": [part, None, f"c{part}"], **options}
    collector.collect_fisher(model, batch, task, sample_ids=ids, **options)


def collect(path, parts, model=None, **options):
    model = build_model("llama", dtype=torch.float32) if model is None else model
    with qkov.FisherCollector(store=path, **options) as collector:
        for part in parts:
            for task in TASKS:
                call(collector, model, part, task)
    return path


@pytest.mark.parametrize("options", [{}, {"store_form": "factors", "store_dtype": "bfloat16"}, {"weights": "all"}])
def test_merged_store_is_that_of_one_collection(tmp_path, options):
    whole = collect(tmp_path / "whole", (0, 1, 2), **options)
    parts = [collect(tmp_path / "first", (0, 1), **options), collect(tmp_path / "second", (2,), **options)]
    before = [digest(part) for part in parts]
    assert qkov.merge_stores(parts, tmp_path / "merged") == tmp_path / "merged"
    assert digest(tmp_path / "merged") == digest(whole)
    assert [digest(part) for part in parts] == before
    assert not store_repair.verify_store(tmp_path / "merged").problems


def test_scores_of_a_merged_store_are_those_of_memory(tmp_path):
    """Samples of a task lie in order, though the merged journal has the tasks in turns."""
    model, held = build_model("llama", dtype=torch.float32), qkov.FisherCollector()
    for task in TASKS:
        for part in (0, 1):
            call(held, model, part, task)
    stores = [collect(tmp_path / str(part), (part,), store_form="factors") for part in (0, 1)]
    merged = qkov.FisherCollector.open(qkov.merge_stores(stores, tmp_path / "merged"))
    assert same_samples(held, merged)
    metrics = (qkov.QKOVInterferenceMetric(one.config, one, min_samples_for_fisher=2) for one in (held, merged))
    scores = [metric.compute_heatmap("a", "b").data.scores.values for metric in metrics]
    np.testing.assert_array_equal(*scores)


def test_left_out_samples_and_empty_tasks_are_taken_over(tmp_path):
    def broken(model, batch):
        losses, tokens = qkov.losses.causal_lm_loss(model, batch)
        return losses * (float("nan") if batch["input_ids"].shape[1] == 3 else 1.0), tokens

    def empty(collector, model, part):
        call(collector, model, part, "a", micro_batch=1)
        collector.collect_fisher(model, build_batch((3,), seed=part), "a", sample_ids=[f"x{part}"], non_finite="skip",
                                 loss_fn=broken, progress=False)  # fmt: skip
        collector.collect_fisher(model, [], "none")

    model = build_model("llama", dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.SkippedSamplesWarning)
        for name, parts in (("whole", (0, 1)), ("0", (0,)), ("1", (1,))):
            with qkov.FisherCollector(store=tmp_path / name) as collector:
                for part in parts:
                    empty(collector, model, part)
    qkov.merge_stores([tmp_path / "0", tmp_path / "1"], tmp_path / "merged")
    assert digest(tmp_path / "merged") == digest(tmp_path / "whole")
    assert set(qkov.FisherCollector.open(tmp_path / "merged").skipped("a")) == {"x0", "x1"}


@pytest.mark.parametrize("place", [0, 3])
def test_interrupted_merge_goes_on_to_the_same_bytes(tmp_path, monkeypatch, place):
    parts = [collect(tmp_path / "first", (0,)), collect(tmp_path / "second", (1,))]
    qkov.merge_stores(parts, tmp_path / "whole")
    moved, calls = store_merging._moved, []

    def stopping(shard, where):
        calls.append(where)
        if len(calls) == 3 * place + 2:
            raise KeyboardInterrupt
        return moved(shard, where)

    monkeypatch.setattr(store_merging, "_moved", stopping)
    with pytest.raises(KeyboardInterrupt):
        qkov.merge_stores(parts, tmp_path / "merged")
    with pytest.raises(errors.UnsealedStoreError):
        qkov.FisherCollector.open(tmp_path / "merged")
    monkeypatch.undo()
    qkov.merge_stores(parts, tmp_path / "merged")
    assert digest(tmp_path / "merged") == digest(tmp_path / "whole")
    qkov.merge_stores(parts, tmp_path / "merged")  # nothing is left to do
    assert digest(tmp_path / "merged") == digest(tmp_path / "whole")


def test_other_weights_are_refused(tmp_path):
    other = build_model("llama", dtype=torch.float32, seed=1)
    parts = [collect(tmp_path / "first", (0,)), collect(tmp_path / "second", (1,), other)]
    with pytest.raises(errors.ModelChangedError, match=r"first'.*second'.*differ in fingerprint.*same weights"):
        qkov.merge_stores(parts, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_other_settings_are_refused(tmp_path):
    parts = [collect(tmp_path / "first", (0,)), collect(tmp_path / "second", (1,), store_dtype="bfloat16")]
    with pytest.raises(errors.StoreMismatchError, match=r"store_dtype None and 'bfloat16'"):
        qkov.merge_stores(parts, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_shared_ids_are_refused(tmp_path):
    first, second = collect(tmp_path / "first", (0,)), collect(tmp_path / "second", (0,))
    for stores in ([first, second], [first, first]):
        with pytest.raises(errors.SampleIdError, match=r"\['0-0', '0-1', '0-2'\] of task 'a' are in"):
            qkov.merge_stores(stores, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_ids_of_two_types_are_refused(tmp_path):
    stores = [collect(tmp_path / "first", (0,)), make_store(tmp_path / "second")]
    with pytest.raises(errors.SampleIdError, match=r"task 'a' in .* of another type"):
        qkov.merge_stores(stores, tmp_path / "merged")


def test_another_environment_is_warned_of(tmp_path, monkeypatch):
    first = collect(tmp_path / "first", (0,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("platform.platform", lambda *rest, **more: "elsewhere")
        patch.setattr("platform.machine", lambda: "elsewhere")
        second = collect(tmp_path / "second", (1,))
    with pytest.warns(errors.StoreWarning, match="another environment"):
        qkov.merge_stores([first, second], tmp_path / "merged")


def test_a_folder_with_something_else_is_refused(tmp_path):
    first, second, other = (collect(tmp_path / str(part), (part,)) for part in (0, 1, 2))
    before = digest(other)
    with pytest.raises(errors.OptionError, match="something else"):
        qkov.merge_stores([first, second], other)
    assert digest(other) == before
    with pytest.raises(errors.SealedStoreError):
        qkov.merge_stores([first, second], first)
    assert qkov.merge_stores([first], first) == first
    with pytest.raises(errors.OptionError, match="no store to merge"):
        qkov.merge_stores([], tmp_path / "merged")


def test_a_changed_shard_is_refused_and_nothing_of_its_pass_is_merged(tmp_path):
    first, second = collect(tmp_path / "first", (0,)), collect(tmp_path / "second", (1,))
    flip(shard_of(second, "a", "1-1"), -1)
    with pytest.raises(errors.StoreDamagedError, match="'1-1' of task 'a' is damaged"):
        qkov.merge_stores([first, second], tmp_path / "merged")
    held = store_contents.read(tmp_path / "merged")
    assert ({task: list(found) for task, found in held.tasks.items()}, held.sealed, held.unlisted) == (
        {task: ["0-0", "0-1", "0-2"] for task in TASKS}, False, ()
    )  # fmt: skip
