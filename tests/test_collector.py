"""What a collector accepts, keeps and skips."""

import time
from types import SimpleNamespace

import pytest
import torch
import transformers

import qkov
from qkov import losses, passes
from qkov.errors import (
    BatchError,
    EmptyTaskError,
    LayoutError,
    ModelChangedError,
    NonFiniteError,
    OptionError,
    SampleIdError,
    UnknownSampleError,
    UnknownTaskError,
)
from tests.builders import (
    VOCABULARY,
    build_batch,
    build_model,
    collect,
    gradient_error,
    reference_gradients,
)

LENGTHS = (5, 8, 3, 7)


@pytest.fixture(scope="module")
def model():
    return build_model("llama")


@pytest.fixture(scope="module")
def collected(model):
    """Task "a" with string ids; treated as read-only."""
    return collect(model, build_batch(LENGTHS), sample_ids=["p", "q", "r", "s"])


def rows(batch, *chosen):
    return {name: value[list(chosen)] for name, value in batch.items()}


# Batches


def test_iterable_of_batches_of_different_widths(model):
    whole = build_batch(LENGTHS)
    batches = (
        {name: value[:, :width] for name, value in rows(whole, *at).items()}
        for at, width in (((0, 1), 8), ((2,), 3), ((3,), 7))
    )
    found = collect(model, batches)
    assert found.sample_ids("a") == (0, 1, 2, 3)
    assert gradient_error(found, "a", reference_gradients("llama", "sdpa", LENGTHS)[0]) < 1e-11


def test_data_loader(model):
    whole = build_batch(LENGTHS)
    items = [{name: value[row] for name, value in whole.items()} for row in range(len(LENGTHS))]
    found = collect(model, torch.utils.data.DataLoader(items, batch_size=3))
    assert gradient_error(found, "a", reference_gradients("llama", "sdpa", LENGTHS)[0]) < 1e-11


def test_output_of_a_tokenizer(model):
    found = collect(model, transformers.BatchEncoding(build_batch(LENGTHS)))
    assert gradient_error(found, "a", reference_gradients("llama", "sdpa", LENGTHS)[0]) < 1e-11


def test_batch_without_a_mask(model):
    ids = build_batch((6, 6))["input_ids"]
    found = collect(model, {"input_ids": ids})
    assert gradient_error(found, "a", reference_gradients("llama", "sdpa", (6, 6))[0]) < 1e-11


def test_batch_is_not_changed(model):
    batch = build_batch(LENGTHS)
    before = {name: value.clone() for name, value in batch.items()}
    collect(model, batch)
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[name], before[name]) for name in batch)


@pytest.mark.parametrize(
    "batch", [{"input_ids": torch.empty(0, 4, dtype=torch.long)}, []], ids=["no rows", "no batches"]
)
def test_empty_batch_makes_an_empty_task(model, batch):
    found = collect(model, batch)
    assert found.tasks == ("a",)
    assert found.sample_ids("a") == ()
    assert list(found.contribution_cache["a"]) == []
    with pytest.raises(EmptyTaskError, match="at least one sample"):
        found.get_group_fisher("a")
    with pytest.raises(UnknownSampleError, match="holds 0 samples"):
        found.get_sample_gradients("a", 0)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (None, BatchError, "a batch is a NoneType"),
        ("text", BatchError, "a batch is a str"),
        (torch.ones(2, 3), BatchError, "a batch is a Tensor"),
        ({"input_ids": torch.full((2, 4), VOCABULARY)}, BatchError, "Was the text tokenised for another model"),
        ({"input_ids": torch.ones(2, 1, dtype=torch.long)}, BatchError, "sample 0 has no predicted token"),
        (
            build_batch((4, 4)) | {"labels": torch.tensor([[1] * 4, [5, -100, -100, -100]])},
            BatchError,
            "sample 1 has no predicted token: every label is masked, padded or the first",
        ),
    ],
)
def test_batch_that_cannot_be_measured_is_refused(model, batch, error, message):
    with pytest.raises(error, match=message):
        collect(model, batch)


def test_passes_before_an_error_are_kept(model):
    found = qkov.FisherCollector()
    batch = build_batch(LENGTHS)
    batch["labels"] = batch["input_ids"].clone()
    batch["labels"][2] = losses.IGNORED
    with pytest.raises(BatchError, match="sample 2 has no predicted token"):
        found.collect_fisher(model, batch, "a", micro_batch=2, progress=False)
    assert found.sample_ids("a") == (0, 1)


@pytest.mark.parametrize("task", ["", None, 3])
def test_task_without_a_name_is_refused(model, task):
    with pytest.raises(OptionError, match="expected a non-empty string"):
        qkov.FisherCollector().collect_fisher(model, build_batch((4,)), task)


def test_micro_batch_below_one_is_refused(model):
    with pytest.raises(OptionError, match="micro_batch is 0"):
        collect(model, build_batch((4,)), micro_batch=0)


@pytest.mark.parametrize("options", [{"contribution_normalisation": "words"}, {"ema_decay": 1.0}])
def test_option_without_meaning_is_refused(options):
    with pytest.raises(OptionError):
        qkov.FisherCollector(**options)


def test_passes_follow_a_budget_of_tokens(model, monkeypatch):
    monkeypatch.setitem(passes.TOKENS_PER_PASS, "cpu", 18)
    sizes = []

    def recorded(model, batch):
        sizes.append(tuple(batch["input_ids"].shape))
        return losses.causal_lm_loss(model, batch)

    collect(model, build_batch((8, 8, 8, 8, 8)), loss_fn=recorded)
    assert sizes == [(2, 8), (2, 8), (1, 8)]


def test_sample_longer_than_the_budget_runs_alone(model, monkeypatch):
    monkeypatch.setitem(passes.TOKENS_PER_PASS, "cpu", 4)
    assert collect(model, build_batch((8, 8))).sample_ids("a") == (0, 1)


# Ids and clusters


def test_calls_append(model):
    found = collect(model, build_batch((4, 5)))
    found.collect_fisher(model, build_batch((6,), seed=4), "a", progress=False)
    found.collect_fisher(model, build_batch((6,), seed=4), "b", progress=False)
    assert found.sample_ids("a") == (0, 1, 2)
    assert found.sample_ids("b") == (0,)
    assert found.tasks == ("a", "b")


def test_ids_run_through_an_iterable(model):
    whole = build_batch(LENGTHS)
    ids = ["w", "x", "y", "z"]
    found = collect(model, [rows(whole, 0), rows(whole, 1, 2, 3)], sample_ids=iter(ids), clusters=["c", "c", "d", "e"])
    assert found.sample_ids("a") == tuple(ids)
    assert found.clusters("a") == dict(zip(ids, ["c", "c", "d", "e"], strict=True))


def test_clusters_default_to_none(collected):
    assert set(collected.clusters("a").values()) == {None}


@pytest.mark.parametrize("name", ["sample_ids", "clusters"])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_labels_of_another_number_than_samples_are_refused(model, name, count):
    whole = build_batch(LENGTHS)
    with pytest.raises(SampleIdError, match=r"expected one each|sample_ids for|clusters left for"):
        collect(model, [rows(whole, 0, 1), rows(whole, 2, 3)], **{name: [f"x{one}" for one in range(count)]})


@pytest.mark.parametrize("padding", ["left", "right"])
def test_known_id_with_the_same_input_is_skipped(model, padding):
    calls = []

    def counted(model, batch):
        calls.append(len(batch["input_ids"]))
        return losses.causal_lm_loss(model, batch)

    found = collect(model, build_batch((4, 5)), loss_fn=counted)
    longer = build_batch((4, 5, 6), padding=padding, width=9)  # the first two rows again, padded otherwise
    found.collect_fisher(model, longer, "a", sample_ids=[0, 1, 2], loss_fn=counted, progress=False)
    assert calls == [2, 1]
    assert found.sample_ids("a") == (0, 1, 2)


def test_known_id_with_another_input_is_refused(model):
    found = collect(model, build_batch((4, 5)))
    with pytest.raises(SampleIdError, match="already holds sample 1 with another input"):
        found.collect_fisher(model, build_batch((4, 5), seed=1), "a", sample_ids=[7, 1], progress=False)
    assert found.sample_ids("a") == (0, 1)


def test_id_may_be_used_in_two_tasks(model):
    found = collect(model, build_batch((4,)), sample_ids=["x"])
    found.collect_fisher(model, build_batch((6,)), "b", sample_ids=["x"], progress=False)
    assert found.sample("a", "x").digest != found.sample("b", "x").digest


def test_repeated_id_across_batches_of_a_call_is_refused(model):
    whole = build_batch((4, 5))
    with pytest.raises(SampleIdError, match="with another input"):
        collect(model, [rows(whole, 0), rows(whole, 1)], sample_ids=["x", "x"])


def test_unknown_task_names_the_known_ones(collected):
    with pytest.raises(UnknownTaskError, match="no task 'b' was collected; known tasks: 'a'"):
        collected.samples("b")
    with pytest.raises(UnknownTaskError, match="known tasks: none"):
        qkov.FisherCollector().samples("b")


@pytest.mark.parametrize("sample_id", ["t", 0])
def test_unknown_sample_names_the_known_range(collected, sample_id):
    with pytest.raises(UnknownSampleError, match=r"no sample .*; it holds 4 samples from 'p' to 's'"):
        collected.get_sample_gradients("a", sample_id)


# The model


def test_changed_weights_are_refused():
    model = build_model("gpt2")
    found = collect(model, build_batch((4,)))
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.weight[0, 0] += 1e-3
    with pytest.raises(ModelChangedError, match="gradients of other weights"):
        found.collect_fisher(model, build_batch((5,)), "b", progress=False)


def test_another_model_is_refused(collected):
    with pytest.raises(ModelChangedError):
        collected.collect_fisher(build_model("gpt2"), build_batch((5,)), "b", progress=False)


def test_failed_first_call_binds_to_no_model(model):
    broken = build_model("llama")
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    found = qkov.FisherCollector()
    with pytest.raises(NonFiniteError):
        found.collect_fisher(broken, build_batch((4,)), "a", progress=False)
    found.collect_fisher(model, build_batch((4,)), "a", progress=False)
    assert found.sample_ids("a") == (0,)


def test_model_without_attention_is_refused():
    with pytest.raises(LayoutError):
        collect(torch.nn.Linear(2, 2), {"input_ids": torch.ones(1, 2)})


def test_sealing_ends_nothing_in_memory(model):
    with qkov.FisherCollector() as found:
        found.collect_fisher(model, build_batch((4,)), "a", progress=False)
    found.seal()
    found.collect_fisher(model, build_batch((5,)), "a", progress=False)
    assert found.sample_ids("a") == (0, 1)


# The bar


@pytest.fixture
def impatient(monkeypatch):
    """Shorten the delay of the bar a hundredfold, from two seconds to 20 ms."""
    real = passes.tqdm

    def hurried(*args, delay, **options):
        return real(*args, delay=delay / 100, mininterval=0, **options)

    monkeypatch.setattr(passes, "tqdm", hurried)


def slow_loss(model, batch):
    time.sleep(0.03)
    return losses.causal_lm_loss(model, batch)


def test_bar_appears_on_long_work(model, capfd, impatient):
    qkov.FisherCollector().collect_fisher(model, build_batch((4, 4, 4)), "math", loss_fn=slow_loss, micro_batch=1)
    shown = capfd.readouterr().err
    assert "collect math: 100%" in shown
    assert "3/3" in shown


def test_bar_of_an_iterable_counts_without_a_total(model, capfd, impatient):
    qkov.FisherCollector().collect_fisher(model, [build_batch((4,)), build_batch((5,))], "math", loss_fn=slow_loss)
    assert "collect math: 2 samples" in capfd.readouterr().err


def test_bar_counts_skipped_samples_as_done(model, capfd, impatient):
    found = collect(model, build_batch((4, 5)), loss_fn=slow_loss)
    capfd.readouterr()
    found.collect_fisher(model, build_batch((4, 5, 6)), "a", sample_ids=[0, 1, 2], loss_fn=slow_loss)
    assert "3/3" in capfd.readouterr().err


def test_bar_stays_away_on_short_work(model, capfd):
    qkov.FisherCollector().collect_fisher(model, build_batch((4, 4)), "math")
    assert capfd.readouterr().err == ""


def test_bar_can_be_switched_off(model, capfd, impatient):
    qkov.FisherCollector().collect_fisher(
        model, build_batch((4, 4)), "math", loss_fn=slow_loss, micro_batch=1, progress=False
    )
    assert capfd.readouterr().err == ""


def test_environment_can_switch_the_bar_off(model, monkeypatch):
    """tqdm reads TQDM_DISABLE only for arguments that are not given."""
    given, real = [], passes.tqdm

    def recorded(*args, **options):
        given.append(options)
        return real(*args, **options)

    monkeypatch.setattr(passes, "tqdm", recorded)
    qkov.FisherCollector().collect_fisher(model, build_batch((4,)), "math")
    assert ["disable" in options for options in given] == [False]


def test_known_id_with_another_loss_is_refused():
    model, batch = build_model("llama"), build_batch((5, 6))
    collector = collect(model, batch)
    with pytest.raises(SampleIdError, match="another input or loss"):
        collector.collect_fisher(
            model, batch, "a", sample_ids=[0, 1], loss_fn=lambda m, b: losses.causal_lm_loss(m, b), progress=False
        )
    assert collector.sample_ids("a") == (0, 1)


@pytest.mark.parametrize("whole", [True, False])
def test_weights_that_are_not_loaded_are_refused(whole):
    model = build_model("llama")
    (model if whole else model.lm_head).to("meta")
    with pytest.raises(LayoutError, match=r"weight' of LlamaForCausalLM is on the meta device.* Load"):
        collect(model, build_batch((4, 5)))


def test_model_on_several_devices_is_refused(monkeypatch):
    model, elsewhere = build_model("llama"), SimpleNamespace(device="cuda:0")
    monkeypatch.setattr(model, "parameters", lambda: [torch.zeros(1), elsewhere])
    with pytest.raises(LayoutError, match="on cpu, cuda:0; expected one device"):
        collect(model, build_batch((4, 5)))
