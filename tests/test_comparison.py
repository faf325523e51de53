"""Two runs beside each other: differences planted at every tier are caught and named, and what explains them is too."""

import json
from dataclasses import replace

import numpy as np
import pytest

import qkov
from qkov import errors, result_agreement, run_folder, tiers
from qkov.commands import console
from tests import compared_runs

SCORES = "scores-unsigned.safetensors"
THREADS = {"threads": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with all results; it is only read and copied."""
    return compared_runs.make_run(tmp_path_factory.mktemp("compared"))


@pytest.fixture(scope="module")
def opened(run):
    return run_folder.open_run(run)


@pytest.fixture
def copied(run, request):
    """Copy the run with something planted."""

    def copy(**planted):
        return compared_runs.copy_of(run, request.node.name.replace("/", "-")[:80], **planted)

    return copy


def moved_scores(opened, change, block="Q"):
    return {SCORES: compared_runs.with_scores(opened.scores(), block, change)}


def of(found, what):
    return next(one for one in found.results if one.agreement.what == what)


def test_a_run_is_the_same_as_its_copy(run, copied):
    found = qkov.compare_runs(run, copied())
    assert (found.verdict, found.expected, found.tightest, found.kept) == ("same", "D1", "D1", True)
    assert {one.agreement.what for one in found.results} == {"scores unsigned", "tests", "prediction"}
    assert all(one.agreement.facts["compared"] > 500 for one in found.results)
    assert "nothing is different in their making" in str(found)
    found.require_kept()


def test_one_bit_is_seen_and_is_within_d2_alone(run, copied, opened):
    def flip(scores):
        scores.reshape(-1)[5] = np.nextafter(scores.reshape(-1)[5], np.inf)

    planted = moved_scores(opened, flip)
    found = qkov.compare_runs(run, copied(results=planted))
    scores = of(found, "scores unsigned")
    assert (scores.agreement.tightest, scores.expected, scores.kept) == ("D2", "D1", False)
    assert scores.agreement.facts["bits"] == 1
    assert (found.verdict, found.kept) == ("broken", False)
    with pytest.raises(
        errors.RunsDifferError, match=r"1 of 2048 scores have other bits.*D1 promises every bit"
    ) as told:
        found.require_kept()
    assert told.value.exit_status == 1


@pytest.mark.parametrize(("relative", "tier"), [(5e-5, "D2"), (5e-4, "D3"), (5e-3, None)], ids=["5e-5", "5e-4", "5e-3"])
@pytest.mark.parametrize("block", "QKVO")
def test_size_of_a_difference_decides_its_tier(run, copied, opened, relative, tier, block):
    largest = opened.scores().arrays[block].max()
    planted = moved_scores(opened, lambda scores: np.add(scores, relative * largest, out=scores), block)
    found = qkov.compare_runs(run, copied(record=THREADS, results=planted))
    scores = of(found, "scores unsigned")
    assert (scores.agreement.tightest, scores.expected) == (tier, "D2")
    assert scores.agreement.facts["error"] == pytest.approx(relative, rel=1e-6)
    assert scores.kept == (tier == "D2")
    assert [one.name for one in found.differences] == ["threads"]
    assert f"block {block}" in str(found)


def test_swapped_ranks_of_heads_are_seen_although_scores_hardly_move(run, copied, opened):
    heatmap = opened.scores()
    near = np.array(heatmap.arrays["Q"])
    near[...] = near.max() + 1e-6 * near.max() * np.arange(near.shape[2] * near.shape[3]).reshape(near.shape[2:])
    one = compared_runs.with_scores(heatmap, "Q", lambda scores: np.copyto(scores, near))

    def swap(scores):
        np.copyto(scores, near)
        scores[..., 0, [0, 3]] = scores[..., 0, [3, 0]]

    two = compared_runs.with_scores(heatmap, "Q", swap)
    found = qkov.compare_runs(
        copied(results={SCORES: one}), compared_runs.copy_of(run, "swapped", record=THREADS, results={SCORES: two})
    )
    scores = of(found, "scores unsigned")
    assert scores.agreement.facts["error"] < tiers.D2_SCORES
    assert scores.agreement.tightest == "D3"
    assert not scores.kept
    assert "heads of block Q rank otherwise" in str(found)


def test_another_strongest_pair_is_seen_although_scores_hardly_move(run, copied, opened):
    """All pairs of the strongest head are equal; one falls and many rise, by less than scores may move."""
    shape = opened.scores().arrays["Q"].shape
    heads = 1.0 - 0.01 * np.arange(shape[2] * shape[3]).reshape(shape[2:])
    flat = moved_scores(opened, lambda scores: np.copyto(scores, np.broadcast_to(heads, shape)))

    def change(scores):
        np.copyto(scores, np.broadcast_to(heads, shape))
        scores[0, 0, 0, 0] -= 0.9e-4
        scores[4:, :, 0, 0] += 0.9e-4

    planted = moved_scores(opened, change)
    found = qkov.compare_runs(
        copied(results=flat), compared_runs.copy_of(run, "raised", record=THREADS, results=planted)
    )
    scores = of(found, "scores unsigned")
    assert scores.agreement.facts["error"] < tiers.D2_SCORES
    assert scores.agreement.facts["ranks"] == 1.0
    assert (scores.agreement.tightest, scores.kept) == ("D3", False)
    assert "strongest pairs of block Q differ by more than ties" in str(found)


def test_edited_ids_are_named(run, copied, opened):
    heatmap = opened.scores()
    planted = {SCORES: replace(heatmap, sample_a=("edited", *heatmap.sample_a[1:]))}
    found = qkov.compare_runs(run, copied(results=planted))
    assert of(found, "scores unsigned").agreement.tightest is None
    assert found.verdict == "broken"
    assert "sample_a differs in 1 of 8: 'm0' is 'edited'" in str(found)


def test_an_exceedance_count_is_decided_exactly_on_any_machine(run, copied, opened):
    """From the same scores: one count more is no rounding, whatever the machine; a float in the 13th digit is."""
    tests = opened.statistics()
    p = np.array(tests.columns["source_p"])
    p[3] += 1 / (compared_runs.PERMUTATIONS + 1)
    other_machine = {"versions": {**opened.record["versions"], "cpu_capability": "NONE"}}
    one_more = {"statistics.safetensors": compared_runs.with_columns(tests, source_p=p)}
    found = qkov.compare_runs(run, copied(record=other_machine, results=one_more))
    result = of(found, "tests")
    assert (result.expected, result.agreement.tightest, result.kept) == ("D0", "D2", False)
    assert "1 of 128 exceedance counts differ" in str(found)

    rounded = {"statistics.safetensors": compared_runs.with_columns(tests, lift=tests.columns["lift"] * (1 + 1e-14))}
    near = qkov.compare_runs(run, compared_runs.copy_of(run, "rounded", record=other_machine, results=rounded))
    result = of(near, "tests")
    assert (result.expected, result.agreement.tightest, result.kept) == ("D0", "D0", True)
    assert near.verdict == "within"


def test_other_decisions_are_named_and_no_monte_carlo_error(run, copied, opened):
    tests = opened.statistics()
    p_maxt = np.array(tests.columns["source_p_maxt"])
    place = int(np.argmax(p_maxt))
    p_maxt[place] = 1 / (compared_runs.PERMUTATIONS + 1)
    planted = {"statistics.safetensors": compared_runs.with_columns(tests, source_p_maxt=p_maxt)}
    other_torch = {"versions": {**opened.record["versions"], "versions": {"torch": "2.11.0"}}}
    slightly = moved_scores(opened, lambda scores: np.multiply(scores, 1 + 5e-4, out=scores))
    found = qkov.compare_runs(run, copied(record=other_torch, results={**planted, **slightly}))
    result = of(found, "tests")
    assert (result.expected, result.agreement.tightest, result.kept) == ("D3", None, False)
    name = f"{tests.blocks[place]} of layer {tests.layers[place]}"
    assert f"1 slices are decided otherwise by p_maxt <= 0.05: {name}" in str(found)


def test_a_decision_next_to_the_level_may_go_either_way_with_other_relabelings(run, copied, opened):
    tests, number = opened.statistics(), compared_runs.PERMUTATIONS + 1
    pairs = []
    for count in (10, 11):  # 0.05 is in, 0.055 out
        p_maxt = np.maximum(np.array(tests.columns["source_p_maxt"]), 0.5)
        p_maxt[0] = count / number
        p = np.array(tests.columns["source_p"])
        p[0] = 5 / number
        pairs.append(compared_runs.with_columns(tests, source_p_maxt=p_maxt, source_p=p))
    found = result_agreement.compare_statistics(*pairs)
    assert found.facts["decided_otherwise"]["p_maxt"] == 1
    assert found.tightest == "D2"
    assert result_agreement.compare_statistics(pairs[0], pairs[0]).tightest == "D1"


def test_a_prediction_is_compared(run, copied, opened):
    prediction = opened.prediction()
    for relative, tier in ((1e-15, "D2"), (5e-5, "D2"), (5e-4, "D3"), (5e-3, None)):
        moved = replace(prediction, first=prediction.first * (1 + relative))
        found = result_agreement.compare_predictions(prediction, moved)
        assert found.tightest == tier, relative
    planted = {"prediction.safetensors": replace(prediction, first=prediction.first * 1.01)}
    found = qkov.compare_runs(run, copied(results=planted))
    assert not of(found, "prediction").kept
    assert of(found, "scores unsigned").kept
    assert found.verdict == "broken"


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"threads": 4}, "D2"),
        ({"device": "cuda"}, "D3"),
        ({"seconds": {"collection": 99.0}}, "D1"),
        ({"commit": {"qkov": "other", "folder": None}}, "D3"),
    ],
    ids=["threads", "device", "seconds", "commit"],
)
def test_tier_to_be_expected_follows_from_what_differs(run, copied, record, expected):
    found = qkov.compare_runs(run, copied(record=record))
    assert of(found, "scores unsigned").expected == expected
    assert found.kept


def test_a_tier_can_be_demanded(run, copied, opened):
    other = copied(
        record=THREADS, results=moved_scores(opened, lambda scores: np.multiply(scores, 1 + 1e-6, out=scores))
    )
    assert qkov.compare_runs(run, other).kept
    assert not qkov.compare_runs(run, other, expect="D1").kept
    with pytest.raises(errors.OptionError, match="expected D1, D2, D3 or D4"):
        qkov.compare_runs(run, other, expect="D0")


def test_other_data_is_another_question(run, copied, opened):
    data = {**opened.record["data"], "math": {**opened.record["data"]["math"], "sha256": "0" * 64}}
    found = qkov.compare_runs(run, copied(record={"data": data}))
    assert (found.verdict, found.kept, found.expected) == ("not comparable", False, None)
    with pytest.raises(errors.RunsDifferError, match=r"different questions: data\.math\.sha256"):
        found.require_kept()


def test_another_reference_touches_the_tests_alone(run, copied, opened):
    data = {**opened.record["data"], "chat": {**opened.record["data"]["chat"], "sha256": "0" * 64}}
    found = qkov.compare_runs(run, copied(record={"data": data}))
    assert of(found, "scores unsigned").expected == "D1"
    assert of(found, "tests").expected == "another question"


def test_two_checkpoints_show_how_alike_their_maps_are(run, copied, opened):
    def raise_head(scores):
        scores[:, :, 1, 2] *= 30

    model = {**opened.record["model"], "fingerprint": "f" * 64}
    found = qkov.compare_runs(run, copied(record={"model": model}, results=moved_scores(opened, raise_head)))
    assert found.verdict == "not comparable"
    block = next(one for one in found.moves if one.block == "Q")
    assert (block.moves[0]["layer"], block.moves[0]["rank_second"]) == (1, 1) or block.correlation < 0.9
    assert {(one["layer"], one["unit"]) for one in block.moves} & {(1, 2)}
    assert next(one for one in found.moves if one.block == "O").rank_correlation == 1.0
    assert "rank correlation" in str(found)


def test_half_precision_is_no_promise_and_its_spread_is_shown(tmp_path, run, copied, opened):
    model = {**opened.record["model"], "dtype": "bfloat16", "fingerprint": "f" * 64}
    planted = moved_scores(opened, lambda scores: np.multiply(scores, 1.02, out=scores))
    found = qkov.compare_runs(run, copied(record={"model": model}, results=planted))
    assert (found.verdict, of(found, "scores unsigned").expected) == ("no promise", "D4")
    assert "2.0e-02 of its block's largest score" in str(found)


def test_two_files_of_scores(run, copied, opened, tmp_path):
    slightly = moved_scores(opened, lambda scores: np.multiply(scores, 1 + 5e-4, out=scores))[SCORES]
    found = qkov.compare_runs(run / SCORES, slightly.save(tmp_path / "other.safetensors"))
    assert (found.verdict, found.expected, found.tightest) == ("within", "D3", "D3")
    changed = replace(slightly, attributes={**slightly.attributes, "variant": "signed"})
    other = qkov.compare_runs(run / SCORES, changed.save(tmp_path / "signed.safetensors"))
    assert other.verdict == "not comparable"
    with pytest.raises(errors.OptionError, match="two run folders, or two files"):
        qkov.compare_runs(run, run / SCORES)


def test_everything_is_json(run, copied, opened):
    def flip(scores):
        scores[0, 0, 0, 0] *= 2

    found = qkov.compare_runs(run, copied(results=moved_scores(opened, flip)))
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["verdict"] == "broken"
    assert document["results"][0]["facts"]["bits"] == 1
    assert console.finite({"error": float("inf")}) == {"error": "inf"}


def test_bounds_are_those_of_the_validation():
    from validation import decisions_evidence, reference_values, repetition

    assert decisions_evidence.FLOATS == tiers.D0_FLOATS
    assert repetition.D2_SCORES == tiers.D2_SCORES
    assert reference_values.SINGLE == tiers.D3_SINGLE
