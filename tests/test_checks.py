"""The checks: what counts as passed, what a crash is, and that they hold on models of every family."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import qkov
from qkov import checks, errors, general_rule, locate
from qkov.checks import Case, Comparison, Measurement, NotRun, edits, parametrize_with_checks, run_check
from qkov.checks.measurement import BOUNDS, bound
from qkov.checks.registry import CHECKS
from tests import builders
from validation import architectures
from validation.proven import output_loss


def build_case(family="llama", dtype=torch.float64, **options):
    model = builders.build_model(family, dtype=dtype, **options)
    batch_a, batch_b = builders.build_batch([9, 6, 8, 7], seed=1), builders.build_batch([7, 8, 5], seed=2)
    return Case(family, model, batch_a, batch_b, builders.loss_of(family))


CASES = [build_case("llama"), build_case("gpt2"), build_case("gpt_neox", torch.float32)]


@parametrize_with_checks(CASES)
def test_laws_hold(case, check):
    result = run_check(check, case)
    assert result.status == "passed" or (check, result.status) == ("gqa_twin", "not run"), str(result)


@pytest.mark.parametrize("family", ["opt", "phi3", "qwen2", "qwen3", "bert"])
@pytest.mark.parametrize(
    "check", ["reference_gradients", "reference_scores", "head_additivity", "relabelling", "gauge", "zeroed_weights"]
)
def test_laws_of_scores_and_layout_hold_in_every_family(family, check):
    assert run_check(check, build_case(family)).status == "passed"


@pytest.mark.parametrize(
    ("measurement", "passed"),
    [
        (Measurement(0.0, 0.0, 1), True),
        (Measurement(1e-9, 1e-8, 5), True),
        (Measurement(1e-7, 1e-8, 5), False),
        (Measurement(0.0, 1e-8, 0), False),
        (Measurement(math.nan, 1e-8, 5), False),
        (Measurement(math.inf, 1e-8, 5), False),
    ],
)
def test_measurement_passes_only_within_its_bound_with_something_compared(measurement, passed):
    assert measurement.passed is passed


def test_comparison_is_relative_to_the_largest_expected_value():
    comparison = Comparison()
    comparison.near([1.0, 101.0], [1.0, 100.0])
    assert comparison.measurement(0.1) == Measurement(0.01, 0.1, 2)


@pytest.mark.parametrize("found", [[math.nan, 1.0], [math.inf, 1.0], [1.0], [[1.0, 1.0]]])
def test_comparison_takes_nan_infinity_and_wrong_shapes_as_infinite_errors(found):
    comparison = Comparison()
    comparison.near(found, [1.0, 1.0])
    assert comparison.error == math.inf


def test_comparison_with_all_zero_expectation_accepts_only_zero():
    comparison = Comparison()
    comparison.near(np.zeros(3), np.zeros(3))
    assert comparison.error == 0
    comparison.near(np.full(3, 1e-30), np.zeros(3))
    assert comparison.error == math.inf


def test_comparison_of_nothing_counts_nothing():
    comparison = Comparison()
    comparison.near(np.zeros((0, 2)), np.zeros((0, 2)))
    assert comparison.compared == 0
    assert not comparison.measurement(1.0).passed


def test_comparison_within_measures_how_far_outside():
    comparison = Comparison()
    comparison.within([0.5, -0.2, 1.1], 0.0, 1.0, 2.0)
    assert comparison.error == pytest.approx(0.1)


def test_a_crash_inside_a_check_is_a_failure_with_its_message(monkeypatch):
    def broken(case):
        raise RuntimeError("the hook fell off")

    monkeypatch.setitem(CHECKS, "broken", broken)
    result = run_check("broken", CASES[0])
    assert (result.status, result.error, result.compared) == ("failed", None, 0)
    assert "RuntimeError: the hook fell off" in str(result)


def test_a_check_that_compares_nothing_is_a_failure(monkeypatch):
    monkeypatch.setitem(CHECKS, "idle", lambda case: Measurement(0.0, 1.0, 0))
    result = run_check("idle", CASES[0])
    assert (result.status, result.reason) == ("failed", "nothing was compared")


def test_a_check_that_cannot_be_tried_is_not_run_with_its_reason(monkeypatch):
    monkeypatch.setitem(CHECKS, "absent", lambda case: NotRun("no such thing here"))
    result = run_check("absent", CASES[0])
    assert (result.status, result.reason) == ("not run", "no such thing here")
    assert not result.passed
    assert run_check("slices_tile", CASES[0]).passed


@pytest.mark.parametrize(
    ("check", "change", "reason"),
    [
        ("isolation", {"batch_a": builders.build_batch([6])}, "one sample"),
        (
            "padding",
            {"batch_a": {**builders.build_batch([6, 5]), "position_ids": torch.arange(6).repeat(2, 1)}},
            "position",
        ),
        ("token_sum", {"batch_a": builders.build_batch([2, 6])}, "too few labels"),
    ],
)
def test_checks_say_why_they_cannot_be_tried_on_a_batch(check, change, reason):
    case = CASES[0]
    result = run_check(check, Case("bare", case.model, change["batch_a"], case.batch_b))
    assert result.status == "not run"
    assert reason in result.reason


@pytest.mark.parametrize("check", ["padding", "token_sum"])
def test_checks_of_tokens_do_not_run_with_a_loss_of_the_users_own(check):
    assert run_check(check, build_case("bert")).status == "not run"


@pytest.mark.parametrize("check", ["relabelling", "rotation"])
def test_checks_of_heads_do_not_run_on_a_head_that_has_no_company_or_no_width(check):
    sizes = {"relabelling": {"num_attention_heads": 1}, "rotation": {"num_attention_heads": 24}}[check]
    assert run_check(check, build_case("gpt2", **sizes)).status == "not run"


def test_bounds_exist_for_every_precision_and_say_why():
    for name, (values, reason) in BOUNDS.items():
        assert len(values) == 3
        assert reason
        assert bound(name, "exact") <= bound(name, "single")


@pytest.mark.parametrize(
    ("dtype", "attention", "precision"),
    [(torch.float64, "sdpa", "exact"), (torch.float64, "eager", "mixed"), (torch.float32, "eager", "single")],
)
def test_precision_of_a_case_follows_weights_and_attention(dtype, attention, precision):
    assert build_case("llama", dtype, attention=attention).precision == precision


def test_bounds_grow_with_the_rounding_of_the_model_itself_in_float32_only():
    exact, single = build_case("llama"), build_case("llama", torch.float32)
    assert exact.conditioning == 1.0
    assert exact.bound("gradient") == 1e-11
    assert 1.0 <= single.conditioning < 2.0
    coarse = build_case("llama", torch.bfloat16)
    assert coarse.conditioning > 100
    assert coarse.bound("gradient") == pytest.approx(1e-5 * coarse.conditioning)
    assert coarse.bound("same") == 0.0


def test_laws_hold_in_bfloat16_as_far_as_its_rounding_goes():
    case = build_case("llama", torch.bfloat16)
    for check in ("reference_gradients", "reference_scores", "isolation", "head_additivity", "ids"):
        assert run_check(check, case).status == "passed"


def test_check_model_runs_all_checks_in_order_and_leaves_the_model_alone():
    case = CASES[0]
    before = {name: parameter.clone() for name, parameter in case.model.named_parameters()}
    results = qkov.check_model(case.model, case.batch_a, case.batch_b, name="mine", progress=False)
    assert [result.check for result in results] == list(checks.CHECKS)
    assert {result.case for result in results} == {"mine"}
    assert all(result.status in ("passed", "not run") for result in results), [str(r) for r in results]
    assert all(torch.equal(parameter, before[name]) for name, parameter in case.model.named_parameters())


def test_check_model_refuses_names_that_are_not_checks():
    case = CASES[0]
    with pytest.raises(errors.OptionError, match="no_such_law"):
        qkov.check_model(case.model, case.batch_a, case.batch_b, checks=["no_such_law"])


def test_edits_are_undone_bit_for_bit_also_after_an_error():
    model = CASES[0].model
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}

    def fail_half_way():
        with edits.restored(model) as parameters:
            for parameter in parameters.values():
                parameter.mul_(3.0)
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        fail_half_way()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_every_check_is_exported_under_its_name():
    for name, law in checks.CHECKS.items():
        assert getattr(checks, f"check_{name}") is law
        assert law.__doc__


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "phi3", "qwen3"])
def test_layout_is_proved_on_the_model_itself(family):
    case = build_case(family)
    results = qkov.prove_layout(case.model, case.batch_a, progress=False)
    assert [result.check for result in results] == list(checks.LAYOUT_PROOF)
    assert {result.status for result in results} == {"passed"}


def exchanged(layout, first, second):
    """A layout with the slices of two blocks exchanged."""
    one, two = layout.projection(first), layout.projection(second)
    swapped = {
        first: dataclasses.replace(two, block=first),
        second: dataclasses.replace(one, block=second),
    }
    return dataclasses.replace(layout, projections=tuple(swapped.get(p.block, p) for p in layout.projections))


def reversed_heads(layout, block):
    """A layout with the heads of one block in the wrong order."""
    parts = [
        dataclasses.replace(p, starts=p.starts[::-1]) if p.block == block else p for p in layout.projections
    ]  # fmt: skip
    return dataclasses.replace(layout, projections=tuple(parts))


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        ("llama", "llama.modeling_llama.LlamaAttention"),
        ("gpt2", "gpt2.modeling_gpt2.GPT2Attention"),
        ("gpt_neox", "gpt_neox.modeling_gpt_neox.GPTNeoXAttention"),
        ("phi3", "phi3.modeling_phi3.Phi3Attention"),
    ],
    ids=["split", "concatenated Conv1D", "interleaved", "concatenated with groups"],
)
@pytest.mark.parametrize("wrong", ["Q for K", "K for V", "Q reversed", "K reversed", "V reversed", "O reversed"])
def test_proof_refuses_a_wrong_layout_in_every_packing(family, attention, wrong, monkeypatch):
    if wrong == "Q for K" and family in ("llama", "phi3"):
        sizes = {"num_key_value_heads": 6}  # exchanged blocks have as many slices, or the exchange is seen at once
    else:
        sizes = {}
    case = build_case(family, **sizes)
    name = f"transformers.models.{attention}"
    finder = locate._FINDERS.get(name, general_rule.general_layout)

    def plant(module, path, config):
        found = finder(module, path, config)
        if wrong.endswith("reversed"):
            return reversed_heads(found, wrong[0])
        return exchanged(found, wrong[0], wrong[-1])

    monkeypatch.setitem(locate._FINDERS, name, plant)
    with pytest.raises(errors.LayoutError, match="not what the model computes"):
        qkov.prove_layout(case.model, case.batch_a, progress=False)


@pytest.mark.parametrize(
    "family", ["falcon", "falcon-heads", "falcon-groups", "codegen", "gpt_bigcode", "gpt_bigcode-heads"]
)
@pytest.mark.parametrize("block", ["Q", "O"])
def test_proof_refuses_reordered_heads_in_the_rarer_packings(family, block, monkeypatch):
    model, inputs = architectures.build(architectures.ARCHITECTURES[family])
    batch = {"input_ids": inputs["input_ids"].repeat(2, 1)}
    qkov.prove_layout(model, batch, progress=False)
    kind = type(model.get_submodule(qkov.QKOVConfig.from_model(model).layers[0].module_name))
    name = f"{kind.__module__}.{kind.__qualname__}"
    finder = locate._FINDERS[name]
    monkeypatch.setitem(
        locate._FINDERS, name, lambda module, path, config: reversed_heads(finder(module, path, config), block)
    )
    with pytest.raises(errors.LayoutError, match="not what the model computes"):
        qkov.prove_layout(model, batch, progress=False)


@pytest.mark.parametrize(
    ("family", "check", "reason"),
    [
        ("olmo2", "head_rows", "spans several heads"),
        ("olmo2", "relabelling", "spans several heads"),
        ("bitnet", "ablation", "spans several heads"),
        ("persimmon", "zeroed_weights", "has a bias"),
        ("qwen3_next", "slices_tile", "rows of a gate"),
        ("qwen3_next", "head_additivity", "rows of a gate"),
        ("qwen3_next", "rotation", "rows of a gate"),
        ("axk2", "rotation", "rows of a gate"),
    ],
)
def test_laws_that_a_family_is_outside_of_are_not_run_with_the_reason(family, check, reason):
    model, inputs = architectures.build(architectures.ARCHITECTURES[family])
    batch = {"input_ids": inputs["input_ids"].repeat(2, 1)}
    result = run_check(check, Case(family, model, batch, batch))
    assert result.status == "not run"
    assert reason in result.reason


@pytest.mark.parametrize("family", ["olmo2", "bitnet", "persimmon", "qwen3_next", "esm", "llama"])
def test_proof_passes_on_unmodified_models_with_norms_and_gates(family):
    architecture = architectures.ARCHITECTURES[family]
    model, inputs = architectures.build(architecture)
    batch = {"input_ids": inputs["input_ids"].repeat(2, 1)}
    loss_fn = None if architecture.is_causal_lm else output_loss
    results = qkov.prove_layout(model, batch, loss_fn=loss_fn, progress=False)
    assert sum(result.passed for result in results) >= 3


def test_nothing_is_proved_where_no_experiment_could_be_made(monkeypatch):
    for check in checks.LAYOUT_PROOF:
        monkeypatch.setitem(CHECKS, check, lambda case: NotRun("not on this model"))
    case = CASES[0]
    with pytest.raises(errors.LayoutError, match="nothing is proved: not on this model"):
        qkov.prove_layout(case.model, case.batch_a, progress=False)
