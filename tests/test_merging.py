"""Merging: a slow loop and a numeric minimiser give the same weights; what must be exact is exact; nothing odd gets in."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from qkov import errors, merging
from qkov.merging import merge_weights
from tests import builders

NUMBERS = st.floats(-8, 8, allow_nan=False, width=32)
FISHERS = st.one_of(st.just(0.0), st.floats(1e-6, 1e6))


@st.composite
def cases(draw, *, dtype=torch.float64):
    """Draw 2-3 models of one tensor, their F and their weights."""
    size, tasks = draw(st.integers(1, 5)), draw(st.integers(2, 3))
    names = [f"t{number}" for number in range(tasks)]
    row = lambda values: torch.tensor(draw(st.lists(values, min_size=size, max_size=size)), dtype=torch.float64)  # noqa: E731
    models = {name: {"w": row(NUMBERS).to(dtype)} for name in names}
    fisher = {name: {"w": row(FISHERS)} for name in names}
    weights = {name: draw(st.floats(0.1, 5)) for name in names}
    return models, fisher, weights


def by_loop(models, fisher, weights, damping, base=None):
    """The formula of the module, a parameter at a time."""
    tasks, size = list(models), len(next(iter(models.values()))["w"])
    strength = [sum(weights[t] * float(fisher[t]["w"][k]) for t in tasks) for k in range(size)]
    ridge, merged = damping * sum(strength) / size, []
    for k in range(size):
        thetas = {t: float(models[t]["w"][k]) for t in tasks}
        plain = sum(weights[t] * thetas[t] for t in tasks) / sum(weights.values())
        centre = plain if base is None else float(base["w"][k])
        top = sum(weights[t] * float(fisher[t]["w"][k]) * thetas[t] for t in tasks) + ridge * centre
        bottom = strength[k] + ridge
        merged.append(top / bottom if bottom > 0 else centre)
    return np.array(merged)


@given(cases(), st.sampled_from((0.0, 1e-8, 0.3)), st.booleans())
def test_merged_weights_are_those_of_a_loop_over_parameters(case, damping, with_base):
    models, fisher, weights = case
    base = {"w": torch.linspace(-3, 2, len(models["t0"]["w"]), dtype=torch.float64)} if with_base else None
    merged = merge_weights(models, fisher=fisher, weights=weights, damping=damping, base=base)["w"]
    np.testing.assert_allclose(merged, by_loop(models, fisher, weights, damping, base), rtol=1e-9, atol=1e-9)


@given(cases())
def test_merged_weights_are_where_the_sum_of_parabolas_is_lowest(case):
    models, fisher, weights = case
    merged = merge_weights(models, fisher=fisher, weights=weights, damping=0)["w"]

    def loss(theta):
        return sum(weights[t] * fisher[t]["w"] * (theta - models[t]["w"]) ** 2 for t in models)

    grid = torch.linspace(-8, 8, 2001, dtype=torch.float64)[:, None]
    assert (loss(merged) <= loss(grid).amin(0) * (1 + 1e-9) + 1e-12).all()


@given(cases(), st.floats(1e-9, 1e9))
def test_equal_fishers_give_the_plain_average_exactly(case, value):
    models, fisher, weights = case
    same = {task: {"w": fisher["t0"]["w"] * value} for task in models}
    plain = merge_weights(models, weights=weights)["w"]
    assert torch.equal(merge_weights(models, fisher=same, weights=weights)["w"], plain)
    zeros = {task: {"w": torch.zeros_like(plain)} for task in models}
    assert torch.equal(merge_weights(models, fisher=zeros, weights=weights, damping=0)["w"], plain)


@given(cases(dtype=torch.float32))
@example(({name: {"w": torch.tensor([-0.0, float("-inf")])} for name in ("t0", "t1")}, None, None))
def test_equal_models_merge_to_themselves_in_every_bit(case):
    models, fisher, weights = case
    models = dict.fromkeys(models, models["t0"])
    merged = merge_weights(models, fisher=fisher, weights=weights)["w"]
    assert merged.numpy().tobytes() == models["t0"]["w"].numpy().tobytes()
    assert merged.data_ptr() != models["t0"]["w"].data_ptr()


@given(cases(), st.integers(-20, 20))
def test_a_common_unit_of_fisher_changes_nothing(case, power):
    models, fisher, weights = case
    scaled = {task: {"w": one["w"] * 2.0**power} for task, one in fisher.items()}
    one, other = (merge_weights(models, fisher=values, weights=weights)["w"] for values in (fisher, scaled))
    assert torch.equal(one, other)


def two(first, second, **extra):
    return {"a": {"w": torch.tensor(first), **extra}, "b": {"w": torch.tensor(second), **extra}}


def test_each_parameter_follows_the_task_that_is_sensitive_to_it():
    fisher = two([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])
    merged = merge_weights(two([1.0, 1.0, 1.0], [3.0, 3.0, 3.0]), fisher=fisher)
    torch.testing.assert_close(merged["w"], torch.tensor([1.0, 3.0, 2.0]), rtol=0, atol=1e-6)


def test_damping_is_relative_to_the_mean_of_the_weighted_sum():
    fisher = two([4.0, 0.0], [0.0, 0.0])
    models = two([1.0, 1.0], [3.0, 3.0])
    base = {"w": torch.tensor([0.0, 0.0])}
    merged = merge_weights(models, fisher=fisher, base=base, damping=1.0)["w"]  # lambda = (4 + 0) / 2
    torch.testing.assert_close(merged, torch.tensor([4 * 1.0 / 6, 0.0]))
    merged = merge_weights(models, fisher=fisher, damping=1.0)["w"]
    torch.testing.assert_close(merged, torch.tensor([(4 * 1.0 + 2 * 2.0) / 6, 2.0]))


def test_fisher_scale_mean_forgets_how_large_a_tasks_loss_is():
    models, fisher = two([1.0, 1.0], [3.0, 3.0]), two([1.0, 2.0], [2.0, 1.0])
    louder = {"a": {"w": fisher["a"]["w"] * 1024}, "b": fisher["b"]}
    for scale, equal in (("mean", True), ("none", False)):
        one, other = (merge_weights(models, fisher=f, fisher_scale=scale)["w"] for f in (fisher, louder))
        assert torch.equal(one, other) is equal


def test_dtypes_are_kept_and_sums_are_wide():
    models = {
        name: {"w": torch.tensor([0.1, value], dtype=torch.bfloat16)} for name, value in (("a", 1.0), ("b", 1.0078125))
    }
    merged = merge_weights(models, weights={"a": 1.0, "b": 1.0 + 2**-12})["w"]
    assert merged.dtype == torch.bfloat16
    assert merged.tolist() == [models["a"]["w"][0].item(), 1.0078125]  # the wide average, 1.0039072, rounds up


def test_parameters_without_fisher_and_buffers_are_carried_over():
    models = two([1.0], [3.0], ids=torch.arange(3), mask=torch.tensor([0.0, float("-inf")]))
    models["a"]["v"], models["b"]["v"] = torch.tensor([0.0]), torch.tensor([1.0])
    merged = merge_weights(models, fisher=two([1.0], [0.0]), base=models["a"])
    assert list(merged) == ["w", "ids", "mask", "v"]
    assert merged["v"].tolist() == [0.5]
    assert merged["mask"].tolist() == [0.0, float("-inf")]
    assert torch.equal(merged["ids"], torch.arange(3))


def test_tied_weights_share_their_fisher():
    models = {}
    for name, value in (("a", 1.0), ("b", 3.0)):
        tensor = torch.full((2,), value)
        models[name] = {"embed": tensor, "head": tensor, "w": torch.full((2,), value)}
    fisher = {"a": {"head": torch.ones(2)}, "b": {"head": torch.zeros(2)}}
    merged = merge_weights(models, fisher=fisher, damping=0)
    assert merged["embed"].tolist() == merged["head"].tolist() == [1.0, 1.0]
    assert merged["w"].tolist() == [2.0, 2.0]


PAIR = two([1.0, 2.0], [3.0, 4.0])
ONES = two([1.0, 1.0], [1.0, 1.0])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"models": {"a": PAIR["a"]}}, errors.EmptyTaskError, "1 models"),
        ({"models": {"a": PAIR["a"], "b": {"v": torch.ones(2)}}}, errors.UnknownParameterError, "'v'.*task 'b'"),
        ({"models": {"a": PAIR["a"], "b": {"w": torch.ones(3)}}}, errors.ShapeError, r"\(3,\).*\(2,\)"),
        ({"models": {"a": PAIR["a"], "b": {"w": torch.ones(2).half()}}}, errors.ShapeError, "float16"),
        ({"models": {"a": PAIR["a"], "b": {"w": "text"}}}, errors.OptionError, "no tensor"),
        ({"models": {"a": PAIR["a"], "b": torch.nn.Linear(1, 1)}}, errors.OptionError, "Linear.*state_dict"),
        ({"models": two([1, 2], [1, 3])}, errors.ShapeError, "whole numbers"),
        ({"models": two([1.0, float("nan")], [1.0, 2.0])}, errors.NonFiniteError, "'w'"),
        ({"models": two([1.0, float("inf")], [1.0, 2.0])}, errors.NonFiniteError, "infinite"),
        ({"base": {"w": torch.ones(1)}}, errors.ShapeError, "base"),
        ({"fisher": {"a": ONES["a"]}}, errors.UnknownTaskError, r"\['a'\]"),
        ({"fisher": {"a": ONES["a"], "b": {}}}, errors.UnknownParameterError, "'w' exists for one"),
        ({"fisher": {t: {"x": torch.ones(2)} for t in "ab"}}, errors.UnknownParameterError, "'x'"),
        ({"fisher": two([1.0], [1.0])}, errors.ShapeError, r"\(1,\)"),
        ({"fisher": two([1.0, -1.0], [1.0, 1.0])}, errors.NonFiniteError, "task 'a'"),
        ({"fisher": two([1.0, 1.0], [1.0, float("nan")])}, errors.NonFiniteError, "task 'b'"),
        ({"weights": {"a": 1.0}}, errors.UnknownTaskError, "weights"),
        ({"weights": {"a": 1.0, "b": 0.0}}, errors.OptionError, "positive"),
        ({"damping": -1.0}, errors.OptionError, "damping"),
        ({"damping": float("nan")}, errors.OptionError, "damping"),
        ({"fisher_scale": "sum"}, errors.OptionError, "fisher_scale"),
    ],
)
def test_what_cannot_be_merged_is_refused(options, error, words):
    options = {"models": PAIR} | options
    with pytest.raises(error, match=words):
        merge_weights(options.pop("models"), **options)


def test_a_wrong_average_is_caught(monkeypatch):
    """Weights of the two models exchanged: the loop above must notice."""
    right = merging._shares
    monkeypatch.setattr(merging, "_shares", lambda *arguments: right(*arguments)[::-1])
    fisher, weights = two([1.0, 5.0], [2.0, 1.0]), {"a": 1.0, "b": 1.0}
    merged = merge_weights(PAIR, fisher=fisher)["w"]
    assert np.abs(merged.numpy() - by_loop(PAIR, fisher, weights, 1e-8)).max() > 0.1


def test_state_dicts_of_a_model_with_tied_embeddings_merge_and_load():
    model = builders.build_model("gpt2", dtype=torch.float32)
    other = builders.build_model("gpt2", dtype=torch.float32, seed=1)
    merged = merge_weights({"a": model.state_dict(), "b": other.state_dict()})
    assert torch.equal(merged["lm_head.weight"], merged["transformer.wte.weight"])
    expected = (model.lm_head.weight.detach().double() + other.lm_head.weight.detach().double()) / 2
    model.load_state_dict(merged)
    torch.testing.assert_close(model.lm_head.weight.detach(), expected.float(), rtol=1e-6, atol=1e-7)
