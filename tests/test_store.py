"""The store of collected samples: commits, seals, resumes, refuses; what a crash leaves is finished or removed."""

import errno
import json
import logging
import os
import shutil

import numpy as np
import pytest
import torch

import qkov
from qkov import durable, errors, journal, resources, store_contents
from qkov.formula import VARIANTS
from qkov.store import Store
from tests.builders import build_batch, build_model
from tests.stores import LENGTHS_A, digest, fill, flip, make_store, same_samples, shard_of


@pytest.fixture(scope="module")
def model():
    return build_model("llama", dtype=torch.float32)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "sealed")


@pytest.fixture
def copy(sealed, tmp_path):
    return shutil.copytree(sealed, tmp_path / "copy")


@pytest.fixture
def unsealed(copy):
    (copy / "seal.json").unlink()
    return copy


# What is kept


@pytest.mark.parametrize("options", [{}, {"weights": ("attention", "mlp")}, {"contribution_normalisation": "none"}])
def test_a_store_holds_what_memory_holds(tmp_path, model, options):
    memory = fill(qkov.FisherCollector(**options), model)
    with qkov.FisherCollector(store=tmp_path / "s", store_form="factors", **options) as collector:
        fill(collector, model)
    found = qkov.FisherCollector.open(tmp_path / "s")
    assert same_samples(memory, found)
    assert same_samples(memory, collector)
    assert (found.config, found.weights, found.left_out) == (memory.config, memory.weights, memory.left_out)
    assert found.model_fingerprint == memory.model_fingerprint
    assert found.contribution_normalisation == memory.contribution_normalisation
    assert found.clusters("b") == memory.clusters("b")
    assert list(found.contribution_cache["b"]) == list(memory.contribution_cache["b"])
    name = "model.layers.0.self_attn.k_proj.bias"
    assert torch.equal(found.get_sample_gradients("a", 2)[name], memory.get_sample_gradients("a", 2)[name])
    for mode in ("ema", "welford"):
        for key, value in found.get_group_fisher("a", mode).items():
            assert torch.equal(value, memory.get_group_fisher("a", mode)[key])


def test_every_analysis_gives_the_same_from_a_store(sealed, model):
    memory, found = fill(qkov.FisherCollector(), model), qkov.FisherCollector.open(sealed)
    for variant in ("unsigned", "natural", "signed", "symmetric", "dot", "full"):
        options = {"variant": variant, "fisher_pool": "pooled", "min_samples_for_fisher": 1}
        one, two = (
            qkov.QKOVInterferenceMetric(each.config, each, **options).compute_heatmap("a", "b")
            for each in (memory, found)
        )
        for block in "QKVO":  # one sample is kept as its whole gradient, which no product makes anew
            np.testing.assert_allclose(
                two.arrays[block], one.arrays[block], rtol=0, atol=1e-6 * abs(one.arrays[block]).max()
            )
    one, two = (qkov.FisherDiagonal.of(each, "a") for each in (memory, found))
    assert one.identical(two)
    one, two = (qkov.predict_change(each, "a", "b", clusters="iid") for each in (memory, found))
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize("tiling", ["fast", "fixed"])
def test_scores_from_stored_factors_are_the_same_bits(tmp_path, model, tiling):
    memory = fill(qkov.FisherCollector(), model)
    with qkov.FisherCollector(store=tmp_path / "s", store_form="factors") as collector:
        fill(collector, model)
    found = qkov.FisherCollector.open(tmp_path / "s")
    options = {"fisher_pool": "pooled", "min_samples_for_fisher": 1, "tiling": tiling, "include_bias": True}
    one, two = (
        qkov.QKOVInterferenceMetric(each.config, each, **options).compute_heatmaps("a", "b", variants=VARIANTS)
        for each in (memory, found)
    )
    for variant in VARIANTS:
        assert all(np.array_equal(one[variant].arrays[block], two[variant].arrays[block]) for block in "QKVO")


def test_an_empty_task_is_kept(tmp_path, model):
    with qkov.FisherCollector(store=tmp_path / "s") as collector:
        fill(collector, model)
        collector.collect_fisher(model, [], "none", progress=False)
    assert qkov.FisherCollector.open(tmp_path / "s").samples("none") == ()


def test_two_runs_write_the_same_bytes(tmp_path, model):
    for name in "xy":
        with qkov.FisherCollector(store=tmp_path / name) as collector:
            fill(collector, model)
    assert digest(tmp_path / "x") == digest(tmp_path / "y")


def test_memory_holds_no_factors_of_stored_samples(tmp_path, model):
    with qkov.FisherCollector(store=tmp_path / "s") as collector:
        fill(collector, model)
        assert all(not one.factors._kept for task in collector.tasks for one in collector._tasks[task].values())


# Ending a collection


def test_scores_of_an_unsealed_store_are_refused_unless_told(tmp_path, model):
    collector = fill(qkov.FisherCollector(store=tmp_path / "s"), model)
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
    for compute in (
        lambda: metric.compute_heatmap("a", "b"),
        lambda: metric.compute_sample_pair("a", 0, "b", "x", 0, 0),
        lambda: collector.get_group_fisher("a"),
        lambda: qkov.FisherDiagonal.of(collector, "a"),
        lambda: qkov.predict_change(collector, "a", "b", clusters="iid"),
    ):
        with pytest.raises(errors.UnsealedStoreError, match=r"has not ended.*seal\(\)"):
            compute()
    with pytest.raises(errors.UnsealedStoreError, match=r"8 samples.*allow_unsealed=True"):
        qkov.FisherCollector.open(tmp_path / "s")
    assert collector.get_sample_gradients("a", 0)  # looking at a sample is no score
    told = qkov.FisherCollector.open(tmp_path / "s", allow_unsealed=True)
    qkov.QKOVInterferenceMetric(told.config, told, min_samples_for_fisher=1).compute_heatmap("a", "b")
    collector.seal()
    metric.compute_heatmap("a", "b")


def test_an_error_inside_the_block_does_not_seal(tmp_path, model):
    collector = qkov.FisherCollector(store=tmp_path / "s")
    with pytest.raises(errors.UnknownTaskError), fill(collector, model):
        collector.sample_ids("c")
    assert not (tmp_path / "s" / "seal.json").exists()
    with qkov.FisherCollector(store=tmp_path / "s") as again:  # the lock was given back
        fill(again, model)
    assert again.sealed


def test_a_sealed_store_takes_nothing_new_until_unsealed(copy, model):
    before = digest(copy)
    collector = qkov.FisherCollector(store=copy)
    fill(collector, model)  # all known
    with pytest.raises(errors.SealedStoreError, match=r"sealed.*8 samples.*unseal\(\)"):
        collector.collect_fisher(model, build_batch((4,), seed=5), "c", progress=False)
    assert digest(copy) == before
    collector.unseal()
    collector.collect_fisher(model, build_batch((4,), seed=5), "c", progress=False)
    collector.seal()
    assert qkov.FisherCollector.open(copy).tasks == ("a", "b", "c")


def test_memory_needs_no_seal(model):
    collector = fill(qkov.FisherCollector(), model)
    collector.seal()
    collector.unseal()
    collector.close()
    assert collector.sealed is None
    assert collector.store is None
    assert len(collector.samples("a")) == len(LENGTHS_A)


def test_a_store_opened_for_reading_takes_nothing(sealed, model):
    found = qkov.FisherCollector.open(sealed)
    before = digest(sealed)
    with pytest.raises((errors.SealedStoreError, errors.OptionError), match=r"sealed|reading"):
        found.collect_fisher(model, build_batch((4,), seed=5), "a", sample_ids=[99], progress=False)
    assert digest(sealed) == before


# Resuming


class Stop(Exception):
    """Stands for anything that ends a process."""


@pytest.mark.parametrize("after", range(7))
def test_the_same_calls_go_on_where_a_collection_stopped(tmp_path, model, after, sealed):
    calls = []

    def stopping(network, batch):
        calls.append(len(batch["input_ids"]))
        if len(calls) > after:
            raise Stop
        return qkov.losses.causal_lm_loss(network, batch)

    stopping.__module__, stopping.__qualname__ = "qkov.losses", "causal_lm_loss"
    collector = qkov.FisherCollector(store=tmp_path / "s")
    with pytest.raises(Stop) if after < 5 else pytest.MonkeyPatch.context(), collector:
        fill(collector, model, loss_fn=stopping)
    with qkov.FisherCollector(store=tmp_path / "s") as again:
        fill(again, model, loss_fn=qkov.losses.causal_lm_loss)
    assert digest(tmp_path / "s") == digest(sealed)


def test_the_same_object_goes_on_too(tmp_path, model):
    seen = []

    def failing_once(network, batch):
        seen.append(None)
        if len(seen) == 2:
            raise Stop
        return qkov.losses.causal_lm_loss(network, batch)

    with qkov.FisherCollector(store=tmp_path / "s") as collector:
        for _ in range(2):
            try:
                collector.collect_fisher(
                    model, build_batch(LENGTHS_A), "a", loss_fn=failing_once, micro_batch=2, progress=False
                )
            except Stop:
                assert collector.sample_ids("a") == (0, 1)
    assert collector.sample_ids("a") == (0, 1, 2, 3, 4)


def test_a_known_id_with_another_input_is_an_error(copy, model):
    collector = qkov.FisherCollector(store=copy)
    with pytest.raises(errors.SampleIdError, match="already holds sample 0 with another input"):
        collector.collect_fisher(model, build_batch((9,), seed=7), "a", progress=False)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"contribution_normalisation": "none"}, "contribution_normalisation 'none' instead of 'tokens'"),
        ({"ema_decay": 0.9}, "ema_decay 0.9 instead of 0.99"),
        ({"weights": "mlp"}, "weights"),
        ({"store_dtype": "bfloat16"}, "store_dtype 'bfloat16' instead of None"),
        ({"store_form": "factors"}, "store_form 'factors' instead of 'smaller'"),
    ],
)
def test_other_settings_are_refused(copy, options, shown):
    before = digest(copy)
    with pytest.raises(errors.StoreMismatchError, match=shown):
        qkov.FisherCollector(store=copy, **options)
    assert digest(copy) == before
    qkov.FisherCollector(store=copy).close()  # the lock was given back


@pytest.mark.parametrize("options", [{"store_dtype": "float16"}, {"store_form": "whole"}])
def test_unknown_options_are_refused_before_a_folder_is_made(tmp_path, options):
    with pytest.raises(errors.OptionError):
        qkov.FisherCollector(store=tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_stored_precision_is_kept_by_open(tmp_path, model):
    with qkov.FisherCollector(store=tmp_path / "s", store_dtype="bfloat16") as collector:
        fill(collector, model)
    found = qkov.FisherCollector.open(tmp_path / "s")
    pair = found.samples("a")[0].factors["model.layers.0.self_attn.q_proj"]
    assert pair.deltas.dtype == torch.bfloat16


# Folders


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(errors.OptionError, match=r"thesis\.tex.*nothing was written"):
        qkov.FisherCollector(store=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "x").write_text("x")
    with pytest.raises(errors.OptionError, match="is a file"):
        qkov.FisherCollector(store=tmp_path / "x")
    with pytest.raises(errors.StoreNotFoundError):
        qkov.FisherCollector.open(tmp_path / "x")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_where_there_is_no_store(tmp_path, make):
    make(tmp_path / "s")
    with pytest.raises(errors.StoreNotFoundError, match="holds no store") as raised:
        qkov.FisherCollector.open(tmp_path / "s")
    assert raised.value.exit_status == 3


def test_a_store_without_samples_says_so(tmp_path, model):
    qkov.FisherCollector(store=tmp_path / "s").close()
    with pytest.raises(errors.UnsealedStoreError, match="no samples yet"):
        qkov.FisherCollector.open(tmp_path / "s", allow_unsealed=True)
    with qkov.FisherCollector(store=tmp_path / "s") as collector:
        fill(collector, model)


def test_a_failed_first_call_binds_to_no_model(tmp_path, model):
    with qkov.FisherCollector(store=tmp_path / "s") as collector:
        with pytest.raises(errors.BatchError):
            collector.collect_fisher(model, {"input_ids": torch.full((1, 3), 99)}, "a", progress=False)
        fill(collector, build_model("gpt2", dtype=torch.float32))
    assert qkov.FisherCollector.open(tmp_path / "s").config.layers[0].packing == "concatenated"


def test_another_version_is_refused(copy):
    before = (copy / "store.json").read_text()
    content = {**json.loads(before), "version": 2}
    content.pop("sha256")
    content["sha256"] = store_contents._sha(store_contents.canonical_json(content).encode())
    (copy / "store.json").write_text(store_contents.canonical_json(content) + "\n")
    for use in (qkov.FisherCollector.open, lambda path: qkov.FisherCollector(store=path)):
        with pytest.raises(
            errors.StoreVersionError, match=r"version 2.*Use the version of qkov that wrote it"
        ) as raised:
            use(copy)
    assert raised.value.exit_status == 5


# What is left of an interruption, and what is damage


def last_pass(folder):
    """Cut the journal before its last line; return that line and the shards it lists."""
    lines = (folder / "journal").read_bytes().splitlines(keepends=True)
    (folder / "journal").write_bytes(b"".join(lines[:-1]))
    return lines[-1], [one["file"] for one in json.loads(lines[-1][9:])["samples"]]


def test_a_pass_whose_line_was_lost_is_listed_again(unsealed, caplog):
    before = digest(unsealed)
    last_pass(unsealed)
    with pytest.warns(errors.StoreWarning, match="1 shards that its journal does not list"):
        qkov.FisherCollector.open(unsealed, allow_unsealed=True)
    with caplog.at_level(logging.WARNING, logger="qkov"):
        Store.writing(unsealed).close()
    assert "listing again 1 samples of task 'b'" in caplog.text
    assert digest(unsealed) == before


@pytest.mark.parametrize("keep", [0, 30, -1])
def test_half_a_line_is_cut_off(unsealed, keep):
    before = digest(unsealed)
    line, _ = last_pass(unsealed)
    with open(unsealed / "journal", "ab") as stream:
        stream.write(line[:keep] + b"\0" * 10)
    Store.writing(unsealed).close()
    assert digest(unsealed) == before


def test_part_of_a_pass_is_removed_and_collected_again(unsealed, model):
    before = digest(unsealed)
    _, files = last_pass(unsealed)
    (unsealed / "shards" / files[0]).unlink()
    _, files = last_pass(unsealed)  # a pass of two samples
    (unsealed / "shards" / files[0]).unlink()
    (unsealed / "shards" / ".x.part").write_bytes(b"half")
    again = qkov.FisherCollector(store=unsealed)
    assert sorted(path.name for path in (unsealed / "shards").iterdir()) == sorted(
        entry.file for _, entry in again._keeping.store.contents.entries
    )
    assert again.tasks == ("a",)
    fill(again, model)
    again.close()
    assert digest(unsealed) == before


def test_damage_between_lines_is_refused(unsealed):
    lines = (unsealed / "journal").read_bytes().splitlines(keepends=True)
    flip(unsealed / "journal", len(lines[0]) + 40)
    before = digest(unsealed)
    for use in (lambda: qkov.FisherCollector.open(unsealed, allow_unsealed=True), lambda: Store.writing(unsealed)):
        with pytest.raises(
            errors.StoreDamagedError, match=r"line 2 does not match.*store verify.*store repair"
        ) as raised:
            use()
    assert raised.value.exit_status == 5
    assert digest(unsealed) == before


@pytest.mark.parametrize("name", ["journal", "seal.json", "store.json"])
def test_any_change_of_a_sealed_store_is_noticed(copy, name):
    size = (copy / name).stat().st_size
    sound = (copy / name).read_bytes()
    for place in range(0, size, max(1, size // 60)):
        flip(copy / name, place, place % 8)
        with pytest.raises(errors.StoreDamagedError):
            qkov.FisherCollector.open(copy)
        (copy / name).write_bytes(sound)
    for size_left in (0, 1, size // 2, size - 1):
        (copy / name).write_bytes(sound[:size_left])
        with pytest.raises(errors.StoreDamagedError):
            qkov.FisherCollector.open(copy)
    if name != "seal.json":
        (copy / name).unlink()
        with pytest.raises(errors.StoreDamagedError):
            qkov.FisherCollector.open(copy)


def test_lines_lost_from_the_end_of_a_sealed_journal_are_noticed(copy):
    last_pass(copy)
    with pytest.raises(errors.StoreDamagedError, match="not the one that was sealed, of 6 lines"):
        qkov.FisherCollector.open(copy)


@pytest.mark.parametrize("change", ["missing", "longer", "shorter"])
def test_a_shard_of_the_wrong_size_is_noticed_at_opening(copy, change):
    path = shard_of(copy, "b", "../y")
    data = path.read_bytes()
    path.unlink()
    if change != "missing":
        path.write_bytes(data + b"x" if change == "longer" else data[:-1])
    with pytest.raises(errors.StoreDamagedError, match=r"sample '\.\./y' of task 'b'"):
        qkov.FisherCollector.open(copy)


def test_a_changed_shard_is_noticed_when_it_is_read(copy):
    path = shard_of(copy, "b", "../y")
    flip(path, path.stat().st_size - 5)
    found = qkov.FisherCollector.open(copy)
    with pytest.raises(errors.StoreDamagedError, match=r"sample '\.\./y' of task 'b' is damaged"):
        qkov.QKOVInterferenceMetric(found.config, found, min_samples_for_fisher=1).compute_heatmap("a", "b")


def test_ids_swapped_in_the_journal_are_noticed(copy):
    lines = (copy / "journal").read_bytes().splitlines(keepends=True)
    record = json.loads(lines[1][9:])
    one, two = record["samples"]
    one["sample_id"], two["sample_id"] = two["sample_id"], one["sample_id"]
    lines[1] = journal.line(record)
    (copy / "journal").write_bytes(b"".join(lines))
    with pytest.raises(errors.StoreDamagedError):
        qkov.FisherCollector.open(copy)


def test_a_kind_of_line_that_is_not_known_is_refused(unsealed):
    found = store_contents.read(unsealed)
    with open(unsealed / "journal", "ab") as stream:
        stream.write(journal.line({"n": found.num_lines, "kind": "poem"}))
    with pytest.raises(errors.StoreDamagedError, match="unknown kind 'poem'"):
        qkov.FisherCollector.open(unsealed, allow_unsealed=True)


# Refusals of the system


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE])
@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace"])
def test_a_refused_commit_keeps_what_was_there(tmp_path, model, monkeypatch, number, call, sealed):
    collector = qkov.FisherCollector(store=tmp_path / "s")
    ids = list(range(5))
    collector.collect_fisher(model, build_batch(LENGTHS_A), "a", sample_ids=ids, micro_batch=2, progress=False)
    before = digest(tmp_path / "s")

    class Refusing:
        def __getattr__(self, name):
            return getattr(os, name)

    def refuse(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    refusing = Refusing()
    setattr(refusing, call, refuse)
    monkeypatch.setattr(durable, "os", refusing)
    with pytest.raises(errors.DiskError, match="what was committed before is kept") as raised:
        fill(collector, model)
    monkeypatch.undo()
    assert (raised.value.errno, raised.value.exit_status) == (number, 7)
    assert digest(tmp_path / "s") == before
    collector.collect_fisher(model, build_batch(LENGTHS_A), "a", sample_ids=ids, micro_batch=2, progress=False)
    collector.close()
    with qkov.FisherCollector(store=tmp_path / "s") as again:
        fill(again, model)
    assert digest(tmp_path / "s") == digest(sealed)


def test_a_plan_that_does_not_fit_the_disk_is_refused_before_any_pass(tmp_path, model, monkeypatch):
    collector = qkov.FisherCollector(store=tmp_path / "s")
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(errors.DiskError, match=r"5 samples of task 'a' needs about .* kB on disk and 10 kB are free"):
        fill(collector, model, loss_fn=lambda *_: pytest.fail("a pass was made"))
    assert digest(tmp_path / "s") == {}


def test_two_writers_are_one_too_many(tmp_path, model):
    first = fill(qkov.FisherCollector(store=tmp_path / "s"), model)
    before = digest(tmp_path / "s")
    with pytest.raises(errors.StoreBusyError, match=rf"process {os.getpid()} on .*Wait for it or end it") as raised:
        qkov.FisherCollector(store=tmp_path / "s")
    assert raised.value.exit_status == 6
    assert digest(tmp_path / "s") == before
    qkov.FisherCollector.open(tmp_path / "s", allow_unsealed=True)  # readers need no lock
    first.seal()
    qkov.FisherCollector(store=tmp_path / "s").close()


def test_left_over_shards_that_no_pass_explains_are_set_aside(unsealed):
    (unsealed / "shards" / "00000099-0123456789ab.safetensors").write_bytes(b"?")
    Store.writing(unsealed).close()
    assert (unsealed / "damaged" / "00000099-0123456789ab.safetensors").read_bytes() == b"?"
