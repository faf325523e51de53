"""Repetition bit for bit and within bounds; every comparison is shown to fail on a planted difference."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from qkov import checks
from qkov.collector import FisherCollector
from validation import environments, reference_models, repeated_run, repetition
from validation.repeated_run import Setting

NAME = "deterministic-llama"
REVERSED = Setting("samples reversed", order="samples reversed")


def build():
    return reference_models.build(NAME), reference_models.batch("a"), reference_models.batch("b"), None


def run(setting=repetition.FIRST):
    labels, arrays = repeated_run.measure(checks.Case(NAME, *build()), setting)
    probe = {name: "bits" for name in ("torch product", "kernels")}
    return repetition.Run(labels, {name: np.array(value) for name, value in arrays.items()}, probe)


@pytest.fixture(scope="module")
def first():
    return run()


def outcome(first, second, **options):
    """Compare a run with the first one under a setting."""
    setting = Setting("it", **{"tier": "D1", "bits": repetition.EVERYTHING} | options)
    return repetition.compare(setting, NAME, {(NAME, "first"): first, (NAME, "it"): second})


def changed(run, prefix, change):
    """A run in which one array that starts with ``prefix`` is another one."""
    name = next(key for key in run.arrays if key.startswith(prefix))
    array = run.arrays[name].copy()
    change(array)
    return dataclasses.replace(run, arrays=run.arrays | {name: array})


def test_the_same_twice_is_the_same_bits(first):
    row = outcome(first, run())
    assert (row["status"], row["bits_error"], row["gradients_error"], row["scores_error"]) == ("passed", 0.0, 0.0, 0.0)
    assert row["compared"] > 1000
    assert row["ranks"] == pytest.approx(1)


@pytest.mark.parametrize("part", ["gradients", "scores", "ema"])
def test_one_unit_in_the_last_place_fails_D1_and_passes_D2(first, part):
    def nudge(array):
        array.flat[0] = np.nextafter(array.flat[0], array.dtype.type(np.inf))

    second = changed(first, f"{part}/", nudge)
    assert outcome(first, second)["status"] == "failed"
    assert outcome(first, second, tier="D2", bits=())["status"] == "passed"


def test_an_unseeded_perturbation_while_collecting_fails_D1(first, monkeypatch):
    generator = np.random.default_rng()  # no seed, on purpose
    kept = FisherCollector.get_sample_gradients

    def perturbed(self, task, sample_id):
        return {name: torch.nextafter(grad, torch.full_like(grad, float(generator.choice([-1, 1]) * np.inf)))
                for name, grad in kept(self, task, sample_id).items()}  # fmt: skip

    monkeypatch.setattr(FisherCollector, "get_sample_gradients", perturbed)
    assert outcome(first, run())["status"] == "failed"


def test_other_labels_alone_fail_D1(first):
    assert outcome(first, dataclasses.replace(first, labels={"scores": "other"}))["status"] == "failed"


@pytest.mark.parametrize("part", ["gradients", "scores", "ema"])
def test_an_error_of_a_thousandth_fails_D2(first, part):
    def scale(array):
        array *= 1.001

    second = changed(first, f"{part}/", scale)
    assert outcome(first, second, tier="D2", bits=())["status"] == "failed"


@pytest.mark.parametrize("change", ["ranks", "top", "missing", "shape"])
def test_D2_fails_on_other_ranks_top_pairs_and_arrays(first, change):
    scores = first.part("scores")
    if change == "missing":
        second = dataclasses.replace(first, arrays={k: v for k, v in first.arrays.items() if k != "scores/Q"})
    elif change == "shape":
        second = dataclasses.replace(first, arrays=first.arrays | {"scores/Q": scores["scores/Q"][:1]})
    elif change == "ranks":
        second = dataclasses.replace(first, arrays=first.arrays | {"scores/Q": scores["scores/Q"][..., ::-1]})
    else:
        second = changed(first, "scores/Q", lambda array: array.flat.__setitem__(int(array.argmax()), 0.0))
    assert outcome(first, second, tier="D2", bits=())["status"] == "failed"


def test_the_strongest_pairs_may_trade_places_within_the_bound_only():
    def compared(second):
        comparison = checks.Comparison()
        one = np.arange(24.0).reshape(2, 3, 2, 2) + 100
        repetition.compare_maps(comparison, {"scores/Q": one}, {"scores/Q": second(one)})
        return comparison.error

    assert compared(lambda one: one + 1e-3 * (one == 114)) <= repetition.D2_SCORES
    assert compared(lambda one: np.where(one == 114, 90.0, one)) == np.inf


def test_any_order_of_collection_gives_the_same_set_of_gradients(first):
    alone = run(Setting("alone", micro_batch=1))
    backwards = run(dataclasses.replace(REVERSED, micro_batch=1))
    row = outcome(alone, backwards, bits=("gradients",), order="samples reversed")
    assert (row["status"], row["bits_error"]) == ("passed", 0.0)
    swapped = run(Setting("swapped", order="tasks swapped"))
    assert outcome(first, swapped, bits=("gradients", "scores", "ema"))["status"] == "passed"


def test_the_exponential_mean_follows_the_order(first):
    runs = {(NAME, "first"): first, (NAME, "samples reversed"): run(REVERSED)}
    assert repetition.compare_order(runs, NAME).error <= repetition.EMA_LAW
    assert repetition.compare_order(runs | {(NAME, "samples reversed"): first}, NAME).error == np.inf


def test_an_exponential_mean_without_order_is_caught(monkeypatch):
    kept = FisherCollector.get_group_fisher
    monkeypatch.setattr(FisherCollector, "get_group_fisher", lambda self, task, mode: kept(self, task, mode="welford"))
    runs = {(NAME, one.name): run(one) for one in (repetition.FIRST, REVERSED)}
    assert repetition.compare_order(runs, NAME).error > repetition.EMA_LAW


def test_a_setting_that_does_nothing_is_not_run(first):
    row = outcome(first, first, environment={"SOME_VARIABLE": "1"})
    assert (row["status"], row["reason"]) == ("not run", "SOME_VARIABLE=1 changes nothing on this machine")
    other = dataclasses.replace(first, probe=first.probe | {"kernels": "DEFAULT"})
    assert outcome(first, other, environment={"SOME_VARIABLE": "1"})["status"] == "passed"


def test_a_process_that_ended_badly_fails(first):
    row = outcome(first, "ended with status 1")
    assert (row["status"], row["reason"]) == ("failed", "ended with status 1")
    (bits, gradients, scores) = repetition.summarise(NAME, [row], {}, 1e-5, 0.0)
    assert {one["status"] for one in (bits, gradients, scores)} == {"failed"}
    assert bits["reason"] == "ended with status 1"


def test_settings_are_compared_with_settings_and_share_what_a_process_has():
    names = [one.name for one in (repetition.FIRST, *repetition.SETTINGS)]
    assert len(set(names)) == len(names)
    for one in repetition.SETTINGS:
        assert one.against in names
        assert (one.tier == "D1") == bool(one.bits), one
        assert set(one.bits) <= set(repetition.EVERYTHING)
        assert Setting(**json.loads(json.dumps(dataclasses.asdict(one)))).place == one.place
    assert repetition.SETTINGS[0].place != repetition.FIRST.place


def test_models_are_repeated_in_processes_of_their_own():
    name = "split-linear-gqa"
    off = environments.ENVIRONMENTS["kernels of torch without AVX"]
    resumed = Setting("resumed", "D1", repetition.EVERYTHING, collect="killed and resumed")
    settings = (resumed, Setting("kernels", environment=off))
    results, rows, arrays = repetition.measure_repetition([name], settings, jobs=2)
    assert [row["check"] for row in results] == ["repetition_D1", "repetition_D2_gradients", "repetition_D2"]
    assert {row["status"] for row in (*results, rows[0])} == {"passed"}, (results, rows)
    assert rows[1]["status"] in ("passed", "not run")
    assert results[0]["compared"] == rows[0]["bits_compared"] > 1000
    assert {"shape", "dtype", "sha256", "values"} <= arrays[0].keys()
    assert {row["array"].split("/")[0] for row in arrays} == {"scores", "ema", "gradients"}
