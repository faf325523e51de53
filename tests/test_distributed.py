"""Many processes give what one gives, bit for bit; what differs between them, and what fails on one, is an error of all."""

import contextlib
import dataclasses
import os
import threading

import numpy as np
import pytest
import torch

import qkov
from qkov import distributed, errors, fisher, interruption
from tests.builders import build_batch, build_model
from tests.stores import LENGTHS_A, digest, fill, same_samples
from validation import rank_threads
from validation.faults.planting import planted
from validation.rank_program import VARIANTS, heatmaps
from validation.store import workload

FAMILIES = ("llama", "gpt2")  # grouped heads, and concatenated projections


def model_of(family="llama"):
    return build_model(family, dtype=torch.float32, layers=3)


def collected(ranks, path, family="llama", **options):
    with ranks.collector(store=path) as collector:
        fill(collector, model_of(family), **options)
    return collector


def on_ranks(size, path, work=lambda ranks, collector: collector, family="llama", **options):
    """Collect with ranks; return what ``work(ranks, collector)`` returns on each."""
    return rank_threads.succeeded(
        rank_threads.run(size, lambda ranks, link: work(ranks, collected(ranks, path, family, **options)))
    )


def errors_on_ranks(size, work):
    """Return the errors that end ``work(ranks)`` on each rank."""
    found = rank_threads.run(size, lambda ranks, link: work(ranks))
    assert all(isinstance(one, BaseException) for one in found), found
    return found


@pytest.fixture(scope="module", params=FAMILIES)
def one_process(request, tmp_path_factory):
    """``(family, folder, collector, heatmaps)`` of one process that knows nothing of ranks."""
    folder = tmp_path_factory.mktemp("one") / "s"
    with qkov.FisherCollector(store=folder) as collector:
        fill(collector, model_of(request.param))
    found = heatmaps(collector, lambda metric: metric.compute_heatmap("a", "b"))
    return request.param, folder, collector, found


# The same bits


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_give_the_bits_of_one_process(one_process, tmp_path, size):
    family, folder, expected, scored = one_process

    def work(ranks, collector):
        return collector, heatmaps(collector, lambda metric: ranks.compute_heatmap(metric, "a", "b"))

    for collector, found in on_ranks(size, tmp_path / "s", work, family):
        assert same_samples(expected, collector)
        assert list(found) == list(VARIANTS)
        assert all(found[name].identical(scored[name]) for name in VARIANTS)
    assert digest(tmp_path / "s") == digest(folder)


def test_more_ranks_than_layers_and_passes_give_the_same(one_process, tmp_path):
    family, folder, collector, _ = one_process

    def work(ranks, collector):
        metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
        return ranks.compute_heatmap(metric, "a", "b", layers=[2, 0], heads=[1, 0])

    alone = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
    expected = alone.compute_heatmap("a", "b", layers=[2, 0], heads=[1, 0])
    assert all(one.identical(expected) for one in on_ranks(5, tmp_path / "s", work, family))
    assert digest(tmp_path / "s") == digest(folder)


@pytest.mark.parametrize("mode", ["ema", "welford"])
def test_fisher_is_that_of_one_process_on_every_rank(one_process, tmp_path, mode):
    family, _, expected, _ = one_process

    def work(ranks, collector):
        return ranks.get_group_fisher(collector, "a", mode), collector.get_group_fisher("a", mode)

    for shared, own in on_ranks(3, tmp_path / "s", work, family):
        assert same_fisher(shared, expected.get_group_fisher("a", mode))
        assert same_fisher(own, shared)


def same_fisher(found, expected):
    return list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)


def test_merging_means_of_ranks_would_not_do(one_process):
    """What is not done here, for the reason that it is not exact: averaging, or merging, what each rank has reduced."""
    _, _, collector, _ = one_process
    expected = collector.get_group_fisher("a", "welford")
    contributions = collector._group_contributions("a")
    parts = [[0, 1, 4], [2, 3]]  # passes of two samples, in turns
    averaged = {key: sum(values[part].mean(0) for part in parts) / 2 for key, values in contributions.items()}
    merged = {
        key: fisher.Welford.of(values[parts[0]]).merge(fisher.Welford.of(values[parts[1]])).mean
        for key, values in contributions.items()
    }
    assert not same_fisher(averaged, expected)
    assert not same_fisher(merged, expected)
    assert all(torch.allclose(merged[key], expected[key], rtol=1e-12) for key in expected)


def test_scores_of_a_collector_in_memory_are_shared_too(one_process):
    family = one_process[0]

    def metric_in_memory():
        collector = fill(qkov.FisherCollector(), model_of(family))
        return qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)

    def work(ranks, link):
        return ranks.compute_heatmap(metric_in_memory(), "a", "b")

    scored = metric_in_memory().compute_heatmap("a", "b")
    assert all(one.identical(scored) for one in rank_threads.succeeded(rank_threads.run(2, work)))


def test_empty_tasks_and_an_empty_task_b_are_as_in_one_process(tmp_path):
    def work(ranks, collector):
        collector.unseal()
        collector.collect_fisher(model_of(), [], "none", progress=False)
        collector.seal()
        metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
        return collector.tasks, ranks.compute_heatmap(metric, "a", "none").attributes["valid"]

    with pytest.warns(errors.EmptyTaskWarning):
        assert on_ranks(2, tmp_path / "s", work) == [(("a", "b", "none"), False)] * 2


# Going on


class Stop(Exception):
    """Ends a rank."""


def stopping(after):
    """A loss that fails at its call number ``after``, from 0, known under the name of the usual one."""
    calls = []

    def loss(network, batch):
        calls.append(None)
        if len(calls) > after:
            raise Stop
        return qkov.losses.causal_lm_loss(network, batch)

    loss.__module__, loss.__qualname__ = "qkov.losses", "causal_lm_loss"
    return loss


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (3, 2), (2, 3)])
def test_any_number_of_ranks_goes_on_with_what_others_have_left(one_process, tmp_path, first, then):
    family, folder, expected, _ = one_process

    def work(ranks, link):
        return collected(ranks, tmp_path / "s", family, loss_fn=stopping(2 - ranks.rank))

    found = rank_threads.run(first, work)
    assert any(isinstance(one, Stop) for one in found)
    assert all(isinstance(one, Stop | errors.RankFailedError) for one in found)
    held = set(workload.tree(tmp_path / "s"))
    assert any(name.startswith("shards/") for name in held)
    for collector in on_ranks(then, tmp_path / "s", family=family):
        assert same_samples(expected, collector)
    assert digest(tmp_path / "s") == digest(folder)


def test_a_failure_says_how_to_go_on(tmp_path):
    def work(ranks):
        collected(ranks, tmp_path / "s", loss_fn=stopping(1) if ranks.rank else None)

    told, _ = errors_on_ranks(2, work)
    assert isinstance(told, errors.RankFailedError)
    for part in ("rank 1 failed: Stop.", "round 1 of 2 ranks", "2 samples of task 'b'", "with any number of ranks"):
        assert part in str(told)


def test_the_grid_does_not_depend_on_what_is_known(tmp_path):
    """A repair, or skipped samples, leave holes: the other samples keep the company that they had."""
    sizes = []

    def seen(network, batch):
        sizes.append(len(batch["input_ids"]))
        return qkov.losses.causal_lm_loss(network, batch)

    collector = qkov.FisherCollector()
    batch = build_batch((4,) * 7)
    part = {name: value[2:3] for name, value in batch.items()}
    collector.collect_fisher(model_of(), part, "a", sample_ids=[2], loss_fn=seen, progress=False)
    collector.collect_fisher(
        model_of(), batch, "a", sample_ids=list(range(7)), loss_fn=seen, micro_batch=3, progress=False
    )
    assert sizes == [1, 2, 3, 1]


# Samples that are left out


def not_finite(network, batch):
    losses = qkov.losses.causal_lm_loss(network, batch)[0]
    return torch.where(batch["attention_mask"].sum(1) == LENGTHS_A[2], torch.nan, losses)


@pytest.mark.parametrize("size", [2, 3])
def test_samples_that_are_not_finite_are_left_out_alike(tmp_path, size):
    options = {"loss_fn": not_finite, "non_finite": "skip"}
    with pytest.warns(errors.SkippedSamplesWarning), qkov.FisherCollector(store=tmp_path / "one") as expected:
        fill(expected, model_of(), **options)
    with pytest.warns(errors.SkippedSamplesWarning):
        found = on_ranks(size, tmp_path / "s", **options)
    for one in found:
        assert list(one.skipped("a")) == [2]
        assert one.skipped("a") == expected.skipped("a")
        assert same_samples(one, expected)
    assert digest(tmp_path / "s") == digest(tmp_path / "one")


def test_a_sample_that_is_not_finite_is_an_error_of_all_ranks(tmp_path):
    found = errors_on_ranks(2, lambda ranks: collected(ranks, tmp_path / "s", loss_fn=not_finite))
    assert [type(one) for one in found] == [errors.NonFiniteError] * 2
    assert str(found[0]).startswith("rank 1: sample 2")
    reading = qkov.FisherCollector.open(tmp_path / "s", allow_unsealed=True)
    assert reading.sample_ids("a") == (0, 1)  # as in one process


# What differs between ranks


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"seed": 1}, "a batch of task 'a' of rank 1 is not that of rank 0"),
        ({"lengths": (5, 8, 20)}, "a batch of task 'a' of rank 1 is not that of rank 0"),
        ({"micro_batch": 3}, "a batch of task 'a' of rank 1 is not that of rank 0"),
        ({"clusters": [1, 2, 3, 4, 5]}, "a batch of task 'a' of rank 1 is not that of rank 0"),
        ({"model": 1}, "the model of rank 1 is not that of rank 0"),
        ({"task": "b"}, "ranks do different things"),
    ],
    ids=lambda one: next(iter(one)) if isinstance(one, dict) else "",
)
def test_ranks_with_other_inputs_are_refused(tmp_path, change, shown):
    def work(ranks):
        own = change if ranks.rank == 1 else {}
        model = build_model("llama", dtype=torch.float32, seed=own.get("model", 0))
        batch = build_batch(own.get("lengths", LENGTHS_A), seed=own.get("seed", 0))
        options = {"micro_batch": own.get("micro_batch", 2), "clusters": own.get("clusters"), "progress": False}
        with ranks.collector(store=tmp_path / "s") as collector:
            collector.collect_fisher(model, batch, own.get("task", "a"), **options)

    for one in errors_on_ranks(2, work):
        assert isinstance(one, errors.RanksDifferError)
        assert shown in str(one)
    with pytest.raises(errors.QKOVError):  # nothing was collected
        qkov.FisherCollector.open(tmp_path / "s", allow_unsealed=True)


def test_ranks_that_go_on_with_another_model_are_refused(tmp_path):
    on_ranks(2, tmp_path / "s")

    def work(ranks):
        with ranks.collector(store=tmp_path / "s") as collector:
            fill(collector, build_model("llama", dtype=torch.float32, layers=3, seed=ranks.rank))

    assert [type(one) for one in errors_on_ranks(2, work)] == [errors.ModelChangedError] * 2


def test_ranks_with_other_settings_are_refused(tmp_path):
    found = errors_on_ranks(2, lambda ranks: ranks.collector(store=tmp_path / "s", ema_decay=0.9 + ranks.rank / 100))
    assert [type(one) for one in found] == [errors.RanksDifferError] * 2
    assert not (tmp_path / "s").exists()


def test_a_store_with_other_settings_is_refused_on_all_ranks(tmp_path):
    on_ranks(2, tmp_path / "s")
    found = errors_on_ranks(2, lambda ranks: ranks.collector(store=tmp_path / "s", ema_decay=0.5))
    assert [type(one) for one in found] == [errors.StoreMismatchError] * 2
    qkov.FisherCollector(store=tmp_path / "s").close()  # the lock was given back


def test_ranks_with_other_scores_in_mind_are_refused(tmp_path):
    def work(ranks):
        collector = collected(ranks, tmp_path / "s")
        variant = "signed" if ranks.rank else "dot"
        metric = qkov.QKOVInterferenceMetric(collector.config, collector, variant=variant, min_samples_for_fisher=1)
        return ranks.compute_heatmap(metric, "a", "b")

    assert [type(one) for one in errors_on_ranks(2, work)] == [errors.RanksDifferError] * 2


def test_other_machines_are_warned_of(tmp_path):
    def described(original):
        def describe_environment(model):
            threads = 7 if threading.current_thread().name == rank_threads.name_of(1) else 1
            return {**original(model), "threads": threads}

        return describe_environment

    told = pytest.warns(errors.StoreWarning, match="another environment .*threads 7, was 1")
    with planted("store_identity.describe_environment", described), told:
        on_ranks(2, tmp_path / "s")


# What fails on one rank


def test_an_error_while_scoring_is_an_error_of_all_ranks(tmp_path):
    def work(ranks):
        collector = collected(ranks, tmp_path / "s")
        metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
        if ranks.rank == 1:
            metric._scorer = lambda *_, **__: (_ for _ in ()).throw(errors.MemoryLimitError("too large"))
        ranks.compute_heatmap(metric, "a", "b")

    found = errors_on_ranks(3, work)
    assert [type(one) for one in found] == [errors.MemoryLimitError] * 3
    assert str(found[0]) == "rank 1: too large"


def test_what_ranks_would_do_differently_is_refused(tmp_path):
    def narrower(ranks):
        collector = collected(ranks, tmp_path / "s")
        metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
        fill = metric._fill
        made = dataclasses.replace(metric.options, tile_elements=100 + ranks.rank)
        type_of = type("Narrower", (type(metric),), {"_fill": lambda self, *rest: fill(*rest) and made})
        metric.__class__ = type_of
        ranks.compute_heatmap(metric, "a", "b")

    for one in errors_on_ranks(2, narrower):
        assert isinstance(one, errors.RanksDifferError)
        assert "tiling='fixed'" in str(one)

    def in_files(ranks):
        collector = collected(ranks, tmp_path / "s")
        metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
        ranks.compute_heatmap(metric, "a", "b", scores_path=tmp_path / f"scores{ranks.rank}")

    budget = lambda ranks: ranks.collector(store=tmp_path / "t", memory_budget="8GB")  # noqa: E731
    for work, said in ((in_files, "scores_path is for one process"), (budget, "memory_budget is of one process")):
        for one in errors_on_ranks(2, work):
            assert isinstance(one, errors.OptionError)
            assert said in str(one)


def test_a_pass_that_does_not_fit_asks_for_a_smaller_one(tmp_path):
    def hungry(network, batch):
        raise torch.OutOfMemoryError

    for one in errors_on_ranks(2, lambda ranks: collected(ranks, tmp_path / "s", loss_fn=hungry)):
        assert isinstance(one, errors.MemoryLimitError)
        assert "collect_fisher(micro_batch=1) on every rank" in str(one)


def test_ranks_cannot_collect_in_memory():
    found = errors_on_ranks(2, lambda ranks: ranks.collector())
    assert [type(one) for one in found] == [errors.OptionError] * 2
    assert "store=PATH" in str(found[0])


def test_a_signal_to_one_rank_ends_all_after_the_round(tmp_path, monkeypatch):
    """Only the main thread gets signals, so one is made up here; test_rank_processes.py sends a real one."""
    monkeypatch.setattr("qkov.interruption.deferred", heard_by_rank_1)
    found = errors_on_ranks(2, lambda ranks: collected(ranks, tmp_path / "s"))
    assert [type(one) for one in found] == [errors.CollectionInterrupted] * 2
    for one in found:
        assert "interrupted by SIGTERM (rank 1): 4 samples of task 'a' are committed" in str(one)
    assert qkov.FisherCollector.open(tmp_path / "s", allow_unsealed=True).sample_ids("a") == (0, 1, 2, 3)


def heard_by_rank_1():
    found = interruption.Interruption()
    found.name = "SIGTERM" if threading.current_thread().name == rank_threads.name_of(1) else ""
    return contextlib.nullcontext(found)


def test_a_rank_that_leaves_is_noticed(tmp_path):
    def work(ranks):
        if ranks.rank == 1:
            raise KeyboardInterrupt
        collected(ranks, tmp_path / "s")

    found = errors_on_ranks(2, work)
    assert isinstance(found[0], errors.RankFailedError)


# Alone


def test_without_others_all_is_as_usual(tmp_path, monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    with distributed.ranks() as ranks:
        assert (ranks.rank, ranks.size) == (0, 1)
        assert ranks.device == torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        assert fill(ranks.collector(), model_of()).store is None
        assert os.fspath(collected(ranks, tmp_path / "s").store) == os.fspath(tmp_path / "s")


# Planted faults


def test_layers_taken_over_from_the_wrong_rank_are_noticed(one_process, tmp_path):
    family, _, _, scored = one_process

    def wrong(original):
        def broadcast(self, array, source):
            original(self, array, (source + 1) % self.size if array.dtype == np.float64 else source)

        return broadcast

    def work(ranks, link):
        collector = collected(ranks, tmp_path / "s", family)
        metric = qkov.QKOVInterferenceMetric(collector.config, collector, min_samples_for_fisher=1)
        return ranks.compute_heatmap(metric, "a", "b")

    with planted("agreement.Agreement.broadcast", wrong):
        found = rank_threads.run(2, work)
    assert not any(isinstance(one, qkov.Heatmap) and one.identical(scored["unsigned"]) for one in found)


def test_a_grid_that_depends_on_the_number_of_ranks_is_noticed(one_process, tmp_path):
    family, folder, _, _ = one_process

    def wrong(original):
        def cut(*arguments, micro_batch=None, **options):
            return original(*arguments, micro_batch=3, **options)

        return cut

    with planted("passes.cut", wrong):
        on_ranks(2, tmp_path / "s", family=family)
    assert digest(tmp_path / "s") != digest(folder)
