"""Every case of bad input is as it says, and the runner fails where it is not."""

import json
import os
import warnings
from types import SimpleNamespace

import pytest
import torch

import qkov
from qkov import durable, errors, samples
from validation import bad_input, faults
from validation.bad_input import ground, registry, run
from validation.faults import planting

DONE = {
    "case", "group", "situation", "behaviour", "expected", "error", "warning", "exit_status", "message", "unchanged", "status",
    "reason", "seconds",
}  # fmt: skip
SITUATIONS = {
    "NaN or infinite gradient": ["nan_gradient", "infinite_gradient", "nan_loss", "nan_gradient_skipped"],
    "no predicted token": ["all_labels_masked", "one_token", "empty_text", "all_padding"],
    "empty task": ["empty_task_a", "empty_task_b", "empty_task_tested", "empty_task_predicted", "empty_task_compared"],
    "one sample": ["one_sample"],
    "token id out of range": ["token_out_of_range", "negative_token", "label_out_of_range", "tokens_of_floats"],
    "other tokenizer": ["token_out_of_range", "other_tokenizer"],
    "train mode with dropout": ["train_mode"],
    "frozen parameters": ["frozen_parameters"],
    "caller in no_grad or inference_mode": ["without_gradients"],
    "tied or shared attention layers": ["tied_weights", "shared_module"],
    "gradient checkpointing": ["checkpointing"],
    "quantised weights": ["quantised_layers", "eight_bits"],
    "fp16 or bf16 overflow and underflow": ["float16_model", "bfloat16_model", "squares_overflow", "squares_underflow"],
    "meta or offloaded parameters": ["meta_weights", "offloaded_weights"],
    "LoRA-wrapped modules": ["lora", "lora_of_peft"],
    "flash attention": ["flash_attention"],
    "MoE auxiliary loss": ["auxiliary_loss", "mixture_of_experts"],
    "what mixes samples": ["batch_norm", "norm_over_the_batch", "samples_compared", "samples_compared_below"],
    "lengths and padding sides": ["padding_sides", "too_long"],
    "a real token equal to the pad id": ["pad_id_as_token"],
    "duplicate ids": ["duplicate_ids", "mixed_ids", "too_few_ids"],
    "string and huge ids": ["huge_ids", "odd_string_ids"],
    "last partial batch": ["last_partial_batch"],
    "layer, head or variant out of range": ["no_such_layer", "no_such_head", "no_such_block", "no_such_variant"],
    "heads not divisible": ["heads_not_divisible", "other_heads_stated"],
    "d_v != d_k": ["other_value_width"],
    "fused order": ["wrong_fused_order", "unknown_fused_order"],
    "multi-latent attention or no attention": ["latent_attention", "refused_attention", "no_attention"],
    "out of memory": ["out_of_memory", "sample_out_of_memory", "scores_out_of_memory"],
    "interrupt": ["interrupted"],
    "pickled input": ["pickled_result"],
    "remote code": ["remote_code"],
    "escapes in text": [
        "html_in_a_table",
        "terminal_commands_printed",
        "terminal_commands_in_an_error",
        "odd_string_ids",
    ],
    "more than 2^31 scores": ["too_many_scores"],
    "denormals, negative zero, non-contiguous weights": [
        "denormal_weights",
        "negative_zero_weights",
        "strided_weights",
    ],
    "edited result files": ["edited_score", "edited_description", "cut_off", "other_result"],
    "too few permutations": ["too_few_permutations", "no_permutations"],
    "a missing optional package or GPU": ["missing_gpu", "lora_of_peft", "token_out_of_range_on_a_gpu"],
    "disk full, EIO, EROFS, EACCES, short write": [
        "disk_enospc",
        "disk_eio",
        "disk_erofs",
        "disk_eacces",
        "disk_emfile",
        "disk_edquot",
        "short_write",
        "plan_beyond_the_disk",
    ],
    "kill -9 and interrupts": ["killed", "interrupted_store", "interrupted"],
    "truncated, flipped or zeroed shard or journal": [
        *(f"{change}_shard" for change in ("flipped", "truncated", "zeroed", "missing")),
        *(f"{change}_journal" for change in ("flipped", "truncated", "zeroed")),
        "flipped_header",
        "flipped_seal",
        "repaired",
    ],
    "another version's store": ["other_version"],
    "two writers": ["two_writers"],
    "unsafe names": ["unsafe_names", "foreign_folder", "no_store", "odd_cluster"],
    "runs from files": [
        "misspelt_key",
        "key_twice",
        "tag_that_runs_code",
        "anchors",
        "line_of_no_json",
        "id_twice",
        "empty_line",
        "long_sample",
        "changed_samples",
        "no_tokenizer",
        "run_not_overwritten",
        "edited_run",
        "incomplete_run",
    ],
    "fingerprints and seals": ["other_weights", "other_settings", "sealed", "unsealed"],
}
"""What was promised, and the cases of each."""


@pytest.mark.parametrize("name", bad_input.CASES)
def test_case_is_as_it_says(name):
    row = bad_input.run_both(name)
    if row["status"] == "not run":
        pytest.skip(row["reason"])
    assert row["status"] == "passed", row["reason"]
    assert row["unchanged"]
    assert (row["error"], row["exit_status"]) == (row["expected"], bad_input.CASES[name].status)
    wanted = bad_input.CASES[name].warning
    assert row["warning"] == (wanted.__name__ if wanted else "none")


def test_no_situation_is_left_out():
    covered = {name for names in SITUATIONS.values() for name in names}
    assert covered <= set(bad_input.CASES)
    assert all(SITUATIONS.values())


def test_every_error_is_ours_and_says_where_and_what_to_do():
    with_error = [one for one in bad_input.CASES.values() if one.error]
    assert len(with_error) >= 45
    assert all(issubclass(one.error, errors.QKOVError) and len(one.says) >= 2 for one in with_error)
    assert {one.status for one in with_error} == {2, 3, 4, 5, 6, 7, 8, 130}


def test_rows_are_json_and_in_order():
    names = ["missing_gpu", "empty_task_b", "one_token"]
    rows = bad_input.run_cases(names)
    assert [row["case"] for row in rows] == names
    assert all(set(row) == DONE for row in rows)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


# Cases on a package that does it wrong


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("train_mode", "dropout_left_on"),
        ("train_mode", "flags_not_restored"),
        ("frozen_parameters", "flags_not_restored"),
        ("frozen_parameters", "gradient_buffers_left"),
        ("pad_id_as_token", "padding_known_by_its_id"),
        ("padding_sides", "attention_mask_ignored"),
        ("padding_sides", "first_real_token_predicted"),
        ("last_partial_batch", "rows_of_a_pass_reversed"),
        ("last_partial_batch", "accumulated_over_samples"),
        ("out_of_memory", "rows_of_a_pass_reversed"),
        ("other_value_width", "values_as_wide_as_keys"),
        ("all_labels_masked", "label_mask_ignored"),
        ("empty_task_b", "empty_average_is_one"),
        ("empty_task_b", "always_valid"),
        ("huge_ids", "saved_without_ids"),
        ("lora", "gradients_clipped"),
        ("strided_weights", "inputs_of_the_first_sample"),
        ("denormal_weights", "stored_in_bfloat16"),
    ],
)
def test_case_fails_where_a_wrong_implementation_is_planted(name, fault):
    with faults.FAULTS[fault].plant():
        assert bad_input.run_case(name)["status"] == "failed"


def nothing(_original):
    return lambda *_arguments, **_options: None


def always(value):
    return lambda _original: lambda *_arguments, **_options: value


def whole_pass_dropped(original):
    """Skipping leaves out the whole pass instead of the samples in it that fail."""

    def collect_factors(model, batch, config, loss_fn, names, *rest):
        try:
            return original(model, batch, config, loss_fn, names, *rest)
        except errors.NonFiniteError:
            raise errors.NonFiniteError(f"one of {names}") from None

    return collect_factors


def sealed_unseen(_original):
    """Every store counts as sealed, whatever its seal says."""

    def check_seal(folder, found, data):
        found.sealed = True

    return check_seal


@pytest.mark.parametrize(
    ("name", "target", "wrong"),
    [
        ("flash_attention", "strict.check_attention", nothing),
        ("norm_over_the_batch", "strict.check_norms", nothing),
        ("samples_compared", "sample_rows._scales_by_sample", always(True)),
        ("auxiliary_loss", "sample_rows._scales_by_sample", always(True)),
        ("too_long", "position_tables.check_positions", nothing),
        ("token_out_of_range", "samples.check_tokens", nothing),
        ("negative_token", "samples.check_tokens", nothing),
        ("empty_text", "samples.check_tokens", nothing),
        ("label_out_of_range", "losses._check_labels", nothing),
        ("other_tokenizer", "samples.row_digest", always("")),
        ("duplicate_ids", "samples.assign_ids", lambda original: lambda task, known, number, ids: list(ids)),
        ("meta_weights", "collector.check_one_device", nothing),
        ("changed_weights", "reproducibility.model_fingerprint", always("")),
        ("nan_gradient", "gradients.torch.isfinite", always(torch.tensor(True))),
        ("nan_loss", "returned_losses.check_losses", nothing),
        ("nan_gradient", "gradients.collect_factors", whole_pass_dropped),
        ("nan_gradient_skipped", "non_finite.warn_of_skipped", nothing),
        ("nan_gradient_skipped", "gradients.collect_factors", whole_pass_dropped),
        ("squares_underflow", "score_warnings._has_gradient", always(False)),
        ("edited_score", "result_file.digest", always("")),
        ("terminal_commands_printed", "commands.console.echo", lambda _original: print),
        ("one_token", "returned_losses.check_losses", nothing),
        ("disk_enospc", "durable._write_all", nothing),
        ("short_write", "durable._write_all", lambda _original: lambda handle, data: durable.os.write(handle, data)),
        ("plan_beyond_the_disk", "resources.require_disk", nothing),
        ("killed", "store.Store.samples", always({})),
        ("interrupted_store", "interruption.Interruption.check", nothing),
        ("flipped_shard", "shards.zlib.crc32", always(0)),
        ("truncated_journal", "store_contents._check_seal", sealed_unseen),
        ("flipped_seal", "store_contents._check_seal", sealed_unseen),
        ("flipped_header", "store_contents._sha", always("0" * 64)),
        ("repaired", "store_repair._fault", always("")),
        ("other_version", "store_contents._sha", always("0" * 64)),
        ("two_writers", "store_lock.acquire", lambda _original: lambda folder: os.open(folder, os.O_RDONLY)),
        ("unsealed", "store_contents._check_seal", sealed_unseen),
        ("sealed", "store.Store.require_open", nothing),
        ("other_weights", "store_identity.require_same_model", nothing),
        ("other_settings", "store_identity.require_same_settings", nothing),
        ("foreign_folder", "store._require_ours", nothing),
        ("unsafe_names", "shards.file_name", lambda _original: lambda number, task, one: f"{number:08d}-{one}"),
        ("wrong_fused_order", "checks.check_model", always([SimpleNamespace(status="passed", passed=True)])),
    ],
)
def test_case_fails_where_what_it_watches_is_switched_off(name, target, wrong):
    with planting.planted(target, wrong):
        assert bad_input.run_case(name)["status"] == "failed"


# The runner, on planted wrong behaviour


def good(ground):
    """Refused."""
    raise errors.BatchError("sample 's3' is wrong. Remove it.")


def planted(act, **changes):
    options = {"error": errors.BatchError, "status": 3, "says": ("'s3'", "Remove it"), "warning": None, "adds": False}
    fields = {"name": "planted", "group": "g", "situation": "s", "behaviour": "b", "missing": lambda: ""}
    return registry.Case(**(fields | options | {"act": act} | changes))


def failed(case, **options):
    row = bad_input.run_case(case, **options)
    assert row["status"] == "failed"
    assert set(row) == DONE
    return row["reason"]


def test_the_planted_case_passes_when_nothing_is_wrong():
    row = bad_input.run_case(planted(good))
    assert (row["status"], row["reason"], row["message"]) == ("passed", "", "sample 's3' is wrong. Remove it.")


def test_no_error_is_a_failure():
    assert failed(planted(lambda ground: None)) == "expected BatchError, found no error"


@pytest.mark.parametrize("error", [errors.SampleIdError, ValueError, AssertionError, RuntimeError, registry.Wrong])
def test_another_class_is_a_failure(error):
    def act(ground):
        raise error("sample 's3' is wrong. Remove it.")

    assert f"expected BatchError, found {error.__name__}" in failed(planted(act))


def test_a_subclass_is_another_class():
    class Special(errors.BatchError):
        pass

    def act(ground):
        raise Special("sample 's3' is wrong. Remove it.")

    assert "found Special" in failed(planted(act))


def test_another_exit_status_is_a_failure():
    assert failed(planted(good, status=4)) == "expected exit status 4, found 3"


@pytest.mark.parametrize("message", ["a sample is wrong. Remove it.", "sample 's3' is wrong."])
def test_a_message_without_place_or_remedy_is_a_failure(message):
    def act(ground):
        raise errors.BatchError(message)

    assert "the message lacks" in failed(planted(act))


def test_a_message_that_a_terminal_obeys_is_a_failure(monkeypatch):
    monkeypatch.setattr(errors.escaping, "for_terminal", str)  # else no message of ours holds such characters

    def act(ground):
        raise errors.BatchError("sample 's3' \x1b[2J is wrong. Remove it.")

    assert "a terminal would obey" in failed(planted(act))


def with_a_change(change):
    def act(ground):
        change(ground.collector)
        good(ground)

    return act


def add(collector):
    collector.collect_fisher(ground.build_model(), ground.build_batch(), "math", sample_ids=["x", "y"], progress=False)


def new_task(collector):
    collector.collect_fisher(ground.build_model(), [], "new", progress=False)


def overwrite(collector):
    pair = next(iter(collector.sample("math", "s1").factors.values()))
    pair.deltas[0, 0] += 1e-12


@pytest.mark.parametrize(
    ("change", "adds", "allowed"),
    [
        (add, False, False), (new_task, False, False), (overwrite, False, False),
        (add, True, True), (new_task, True, True), (overwrite, True, False),
    ],
)  # fmt: skip
def test_a_changed_collector_is_a_failure(change, adds, allowed):
    row = bad_input.run_case(planted(with_a_change(change), adds=adds))
    assert row["unchanged"] is allowed
    assert (row["status"], row["reason"]) == (
        ("passed", "") if allowed else ("failed", "what was collected before has changed")
    )


def held(*found, task="math"):
    """A collector that holds these samples."""
    return SimpleNamespace(tasks=(task,), samples=lambda _task: found)


def kept(sample_id="a", cluster=None, num_tokens=2, digest="d", value=1.0, module="q"):
    tensor = torch.tensor([[value]])
    pair = SimpleNamespace(inputs=tensor, deltas=tensor)
    return samples.Sample(sample_id, cluster, num_tokens, digest, {module: pair})


@pytest.mark.parametrize(
    "change",
    [
        {"sample_id": 1}, {"cluster": "x"}, {"num_tokens": 3}, {"digest": "e"}, {"value": -1.0}, {"value": 1.0000001},
        {"module": "k"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("adds", [False, True])
def test_every_part_of_a_sample_is_hashed(change, adds):
    before = ground.contents(held(kept(), kept("b")))
    assert ground.unchanged(before, ground.contents(held(kept(), kept("b"))), adds=adds)
    assert not ground.unchanged(before, ground.contents(held(kept(**change), kept("b"))), adds=adds)


@pytest.mark.parametrize("after", [held(kept("b"), kept()), held(kept()), held(kept(), kept("b"), task="code")])
@pytest.mark.parametrize("adds", [False, True])
def test_order_tasks_and_missing_samples_count(after, adds):
    before = ground.contents(held(kept(), kept("b")))
    assert not ground.unchanged(before, ground.contents(after), adds=adds)


def test_samples_kept_after_an_error_are_a_failure_in_another_collector_too():
    def act(ground):
        ground.collect_anew(ground.model, ground_batch)
        good(ground)

    ground_batch = ground.build_batch()
    assert failed(planted(act)) == "what was collected before has changed"


def test_a_result_that_is_wrong_is_a_failure():
    def act(ground):
        registry.require(1 + 1 == 3, "1 + 1 is not 3")

    assert "1 + 1 is not 3" in failed(planted(act, error=None, status=None, says=()))


@pytest.mark.parametrize("given", [None, UserWarning, errors.StatisticsWarning])
def test_a_missing_or_other_warning_is_a_failure(given):
    def act(ground):
        if given:
            warnings.warn("'s3'. Remove it.", given, stacklevel=1)

    case = planted(act, error=None, status=None, warning=errors.EmptyTaskWarning)
    assert failed(case) == "expected a EmptyTaskWarning, found none"


def test_the_text_of_a_warning_is_asked_too():
    def act(ground):
        warnings.warn("somewhere.", errors.EmptyTaskWarning, stacklevel=1)

    assert "the message lacks" in failed(planted(act, error=None, status=None, warning=errors.EmptyTaskWarning))


def test_what_cannot_run_is_never_green():
    row = bad_input.run_case(planted(lambda ground: 1 / 0, missing=lambda: "no such package"))
    assert (row["status"], row["reason"], row["unchanged"], row["error"]) == (
        "not run",
        "no such package",
        None,
        "none",
    )


def test_an_interrupt_of_the_run_is_none_of_the_case():
    def act(ground):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bad_input.run_case(planted(act))


def test_what_another_process_would_find_is_looked_at():
    made = []

    def make_collector():
        made.append(qkov.FisherCollector())
        return made[-1]

    def reopen(collector):
        assert collector is made[0]
        return qkov.FisherCollector()

    assert (
        failed(planted(good), make_collector=make_collector, reopen=reopen) == "what was collected before has changed"
    )


def test_long_messages_are_cut_and_folders_left_out(tmp_path):
    def act(ground):
        raise errors.BatchError(f"{run.tempfile.gettempdir()}/ab12cd/x.bin: sample 's3'. Remove it." + "x" * 1000)

    row = bad_input.run_case(planted(act))
    assert row["message"].startswith("FOLDER/x.bin: sample")
    assert row["message"].endswith("x ...")
    assert len(row["message"]) == run.LONGEST + 4


def test_random_numbers_of_the_caller_are_not_touched():
    state = torch.random.get_rng_state()
    bad_input.run_case(planted(lambda ground: torch.rand(3)))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"error": ValueError, "status": 3, "says": ("a", "b")}, "ValueError does not end with status 3"),
        ({"error": errors.BatchError, "status": 4, "says": ("a", "b")}, "does not end with status 4"),
        ({"error": errors.BatchError, "status": 3, "says": ("a",)}, "where it happened, and the remedy"),
        ({"warning": errors.EmptyTaskWarning}, "where it happened, and the remedy"),
    ],
)
def test_a_case_that_asks_for_too_little_cannot_be_registered(options, words):
    with pytest.raises(ValueError, match=words):
        registry.case("s", group="g", **options)(good)
    assert "good" not in bad_input.CASES


def test_two_cases_cannot_share_a_name():
    def one_token(ground):
        """Another."""

    with pytest.raises(ValueError, match="two cases are named"):
        registry.case("s", group="g")(one_token)


def test_tasks_and_types_of_ids_do_not_collide_in_what_is_hashed():
    collector = qkov.FisherCollector()
    model = ground.build_model()
    collector.collect_fisher(model, ground.build_batch(), "a", sample_ids=["0", "1"], progress=False)
    collector.collect_fisher(model, ground.build_batch(), "b", progress=False)
    assert list(ground.contents(collector)) == [("a", None), ("a", "0"), ("a", "1"), ("b", None), ("b", 0), ("b", 1)]
