"""A run from files to a folder: complete, the same again, going on after any interruption, refusing before it computes."""

import collections
import dataclasses
import json
import os
import shutil
import signal

import pytest
import torch
import transformers

import qkov
from qkov import errors, run_folder, run_inputs, run_stages, running

from .runs import TASKS, make_config, make_inputs, make_model, task_lines, write_lines

pytestmark = pytest.mark.filterwarnings(
    "ignore::qkov.errors.StatisticsWarning", "ignore::qkov.errors.FewSamplesWarning"
)
SMALL = {"scores": {"layers": [0]}, "statistics": {"n_permutations": 19}}
RESULTS = ["scores-unsigned.safetensors", "statistics.safetensors", "prediction.safetensors", "top_pairs.safetensors"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("inputs"), count=6)


@pytest.fixture(scope="module")
def whole(inputs):
    """A run that nothing interrupted."""
    running.run_measurement(make_config(inputs, **SMALL), inputs / "whole", progress=False)
    return inputs / "whole"


@pytest.fixture
def copy(inputs, tmp_path):
    """The inputs alone, to spoil."""
    ignored = shutil.ignore_patterns("whole", "new*")
    return shutil.copytree(inputs, tmp_path / "copy", ignore=ignored)


def files(path):
    """Bytes of all files that a replay repeats: results, configuration and store, without locks and the record."""
    return {
        one.relative_to(path).as_posix(): one.read_bytes()
        for one in path.rglob("*")
        if one.is_file() and one.name not in ("lock", "run.json")
    }


def test_a_run_holds_what_was_asked_for(whole, inputs):
    run = qkov.open_run(whole)
    assert sorted(run.record["results"]) == sorted(RESULTS)
    assert run.record["not_run"] == []
    assert run.scores().sample_a == tuple(one["id"] for one in task_lines("math", 6))
    assert run.scores().layers == (0,)
    assert run.statistics().attributes["num_clusters"] == {task: 3 for task in TASKS}
    assert run.statistics().attributes["reference_task"] == "chat"
    assert run.prediction().attributes["task_a"] == "math"
    assert {row["layer"] for row in run.top_pairs().rows} == {0}
    assert run.collector().tasks == TASKS
    assert run.texts("math")["m1"] == "1 + 4 = 5"


def test_scores_are_those_of_the_same_texts_in_python(whole, inputs):
    model = transformers.AutoModelForCausalLM.from_pretrained(inputs / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(inputs / "model")
    collector = qkov.FisherCollector()
    for task in TASKS:
        for line in task_lines(task, 6):
            batch = {"input_ids": torch.tensor([tokenizer(line["text"])["input_ids"]])}
            collector.collect_fisher(model, batch, task, sample_ids=[line["id"]], progress=False)
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, fisher_pool="pooled")
    expected = metric.compute_heatmap("math", "code", layers=[0], progress=False)
    found = qkov.open_run(whole).scores()
    for block, scores in expected.arrays.items():
        torch.testing.assert_close(torch.tensor(found.arrays[block]), torch.tensor(scores), rtol=1e-3, atol=1e-9)


def test_the_record_says_what_numbers_depend_on(whole):
    record = run_folder.read_record(whole)
    assert record["model"]["class"] == "LlamaForCausalLM"
    assert record["model"]["fingerprint"] == qkov.open_run(whole).collector().model_fingerprint
    assert record["data"]["math"]["samples"] == 6
    assert record["data"]["math"]["clusters"] == 3
    assert record["data"]["math"]["tokens"] == sum(len(one["text"]) for one in task_lines("math", 6))
    assert record["data"]["math"]["sha256"] == run_folder.file_digest(whole.parent / "math.jsonl")
    assert record["versions"]["versions"]["torch"] == torch.__version__
    assert set(record["commit"]) == {"folder", "qkov"}
    assert set(record["seconds"]) == {"collection", "scores", "statistics", "prediction", "top_pairs"}
    assert record["started"] <= record["finished"]
    assert str(whole.parent) not in (whole / "config.yaml").read_text()


def test_a_replay_repeats_every_byte(whole, inputs):
    again = inputs / "new-replay"
    running.run_measurement(qkov.read_config(whole / "config.yaml"), again, progress=False)
    assert files(again) == files(whole)


def test_another_seed_changes_the_tests_and_nothing_else(whole, inputs):
    config = make_config(inputs, **SMALL, seed=1)
    found = running.run_measurement(config, inputs / "new-seed", progress=False)
    one, other = (run_folder.read_record(path)["results"] for path in (whole, found.path))
    assert [name for name in RESULTS if one[name] != other[name]] == ["statistics.safetensors"]


@pytest.mark.parametrize("stage", ["scores", "prediction"])
def test_an_interrupted_stage_is_gone_on_with(whole, copy, monkeypatch, stage):
    function = {"scores": "_heatmaps", "prediction": "predict_change"}

    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    config, path = make_config(copy, **SMALL), copy / "whole"
    with monkeypatch.context() as patch:
        patch.setattr(run_stages, function[stage], interrupt)
        with pytest.raises(errors.CollectionInterrupted, match=r"To go on: qkov run .*config\.yaml --out") as raised:
            running.run_measurement(config, path, progress=False)
    assert raised.value.exit_status == 130
    with pytest.raises(errors.RunFolderError, match="not complete"):
        qkov.open_run(path)
    found = running.run_measurement(config, path, progress=False)
    assert len(found.record["resumed"]) == 1
    assert files(path) == files(whole)


def test_what_is_done_is_not_done_again(copy, monkeypatch):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    config, said = make_config(copy, **SMALL), []
    with monkeypatch.context() as patch:
        patch.setattr(run_stages, "describe_top_pairs", interrupt)
        with pytest.raises(errors.CollectionInterrupted):
            running.run_measurement(config, copy / "run", progress=False)
    for name in ("_heatmaps", "QKOVStatistics", "predict_change"):
        monkeypatch.setattr(run_stages, name, None)
    monkeypatch.setattr(run_stages.model_loading, "load_model", _only_shapes(run_stages.model_loading.load_model))
    running.run_measurement(config, copy / "run", progress=False, tell=said.append)
    assert sum("done before" in one for one in said) == 4


def _only_shapes(load):
    def load_shapes(*arguments, **options):
        assert options["device"] == "meta", "weights were read again"
        return load(*arguments, **options)

    return load_shapes


def test_a_run_that_was_killed_is_gone_on_with(whole, copy):
    """Killed while samples are collected: half of them are in the store."""
    child = os.fork()
    if not child:
        try:
            batches = run_stages._counted

            def killing(given, bar):
                yield from batches(given, bar)
                os.kill(os.getpid(), signal.SIGKILL)

            run_stages._counted = killing
            running.run_measurement(make_config(copy, **SMALL), copy / "whole", progress=False)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    left = qkov.FisherCollector.open(copy / "whole" / "store", allow_unsealed=True)
    assert len(left.sample_ids("math")) == 6
    assert left.tasks == ("math",)
    running.run_measurement(make_config(copy, **SMALL), copy / "whole", progress=False)
    assert files(copy / "whole") == files(whole)


def test_a_complete_run_is_not_overwritten(whole, inputs):
    before = files(whole)
    for config in (make_config(inputs, **SMALL), make_config(inputs, seed=5)):
        with pytest.raises(errors.OptionError, match="complete run, which is not overwritten") as raised:
            running.run_measurement(config, whole)
        assert raised.value.exit_status == 2
    assert files(whole) == before


def interrupted(copy, monkeypatch, config=None):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_stages, "collect", interrupt)
        with pytest.raises(errors.CollectionInterrupted):
            running.run_measurement(config or make_config(copy, **SMALL), copy / "run", progress=False)
    return copy / "run"


def test_an_interrupted_run_of_another_configuration_is_refused(copy, monkeypatch):
    path = interrupted(copy, monkeypatch)
    before = files(path)
    with pytest.raises(errors.OptionError, match="'scores', 'seed' differ"):
        running.run_measurement(make_config(copy, seed=1, statistics=SMALL["statistics"]), path)
    write_lines(copy / "math.jsonl", task_lines("math", 5))
    with pytest.raises(errors.OptionError, match="'tasks' differ"):
        running.run_measurement(make_config(copy, **SMALL), path)
    assert files(path) == before


def test_other_files_are_left_alone(copy):
    (copy / "run").mkdir()
    (copy / "run" / "config.yaml").write_text("mine")
    for out in ("run", "math.jsonl"):
        with pytest.raises(errors.OptionError, match=r"holds other files|is a file"):
            running.run_measurement(make_config(copy, **SMALL), copy / out)
    assert (copy / "run" / "config.yaml").read_text() == "mine"
    assert [one.name for one in (copy / "run").iterdir()] == ["config.yaml"]


def test_an_empty_folder_and_one_left_before_its_first_record_are_taken(copy):
    (copy / "run").mkdir()
    (copy / "run" / "lock").touch()
    (copy / "run" / "config.yaml").write_text("half")
    (copy / "run" / ".run.json.0.part").touch()
    assert running._found(copy / "run") is None
    (copy / "run2").mkdir()
    assert running._found(copy / "run2") is None


def test_a_run_that_another_process_makes_is_busy(copy):
    handle = running.store_lock.acquire(copy)
    try:
        with pytest.raises(errors.StoreBusyError), running._locked(copy):
            pass
    finally:
        running.store_lock.release(handle)


def test_data_that_has_changed_since_is_refused_by_a_replay(copy, whole):
    shutil.copytree(whole, copy / "whole")
    write_lines(copy / "code.jsonl", task_lines("code", 5))
    with pytest.raises(errors.TaskFileError, match=r"code\.jsonl' has changed: its sha256 is [0-9a-f]{64}, expected"):
        running.run_measurement(qkov.read_config(copy / "whole" / "config.yaml"), copy / "new")
    assert not (copy / "new").exists()


def test_an_edited_result_of_an_interrupted_run_is_refused(copy, monkeypatch):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_stages, "QKOVStatistics", interrupt)
    with pytest.raises(errors.CollectionInterrupted):
        running.run_measurement(make_config(copy, **SMALL), copy / "run", progress=False)
    path = copy / "run" / "scores-unsigned.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(errors.ResultFileError, match="not what the run wrote"):
        running.run_measurement(make_config(copy, **SMALL), copy / "run", progress=False)


def test_too_few_units_are_told_and_the_rest_is_run(copy):
    write_lines(copy / "math.jsonl", [{**one, "cluster": "all"} for one in task_lines("math", 3)])
    said = []
    found = running.run_measurement(make_config(copy, **SMALL), copy / "run", progress=False, tell=said.append)
    reason = "task 'math' has 1 independent unit; at least 2 are needed."
    assert found.record["not_run"] == [
        {"what": "statistics", "reason": reason},
        {"what": "prediction", "reason": reason},
    ]
    assert (found.statistics(), found.prediction()) == (None, None)
    assert f"not run: statistics: {reason}" in said
    assert found.scores().attributes["valid"]


def test_any_other_error_of_a_test_is_an_error(copy, monkeypatch):
    def fail(*_arguments, **_options):
        raise errors.StatisticsError("planted")

    monkeypatch.setattr(run_stages, "QKOVStatistics", fail)
    with pytest.raises(errors.StatisticsError, match="planted"):
        running.run_measurement(make_config(copy, **SMALL), copy / "run", progress=False)


def test_a_unit_in_two_tasks_is_refused_before_anything_is_computed(copy):
    write_lines(copy / "code.jsonl", [{**one, "cluster": "math-0"} for one in task_lines("code", 6)])
    with pytest.raises(errors.StatisticsError, match="clusters have samples in both task 'math' and task 'code'"):
        running.run_measurement(make_config(copy, **SMALL), copy / "run")
    assert not (copy / "run").exists()
    run_inputs.read_inputs(make_config(copy, statistics={"run": False}))


def test_samples_without_clusters_count_as_independent_with_a_note(copy):
    write_lines(copy / "math.jsonl", task_lines("math", 4, clusters=False))
    found = run_inputs.read_inputs(make_config(copy))
    assert found.clusters == {"math": "iid"}
    assert (found.num_units("math"), found.num_units("code")) == (4, 3)
    assert "Samples of 'math' are taken to be independent" in found.notes[0]
    with pytest.raises(errors.TaskFileError, match=r"gives no .cluster., and statistics\.clusters is .given."):
        run_inputs.read_inputs(make_config(copy, statistics={"clusters": "given"}))
    everyone = run_inputs.read_inputs(make_config(copy, statistics={"clusters": "iid"}))
    assert everyone.clusters == dict.fromkeys(TASKS, "iid")
    assert everyone.num_units("code") == 6


def test_copies_that_count_as_independent_are_noted(copy):
    lines = task_lines("math", 4, clusters=False)
    write_lines(copy / "math.jsonl", [*lines, {**lines[0], "id": "m8"}, {**lines[0], "id": "m9"}])
    assert any(
        "2 of 6 samples of task 'math' are copies of another" in note
        for note in run_inputs.read_inputs(make_config(copy)).notes
    )
    write_lines(copy / "math.jsonl", [*lines, {**lines[0], "id": "m8", "prompt": "Add. "}])
    assert not any("copies" in note for note in run_inputs.read_inputs(make_config(copy)).notes)
    write_lines(copy / "math.jsonl", [{**one, "cluster": "c0", "text": "same"} for one in lines])
    assert not any("copies" in note for note in run_inputs.read_inputs(make_config(copy)).notes)


def test_several_variants_and_choices(copy):
    config = make_config(
        copy, reference=None, keep_store=False, tokens={"max_length": 5, "truncate": True}, seed=3,
        model={"name": "./model", "weights": False, "dtype": "bfloat16"}, statistics={"run": False},
        scores={"variants": ["full", "dot", "signed"], "layers": [1], "max_samples": 2}, prediction={"run": False},
    )  # fmt: skip
    found = running.run_measurement(config, copy / "run", progress=False)
    assert found.variants == ("full", "dot", "signed")
    assert found.scores() == found.scores("full")
    assert found.scores("signed").attributes["variant"] == "signed"
    assert found.scores("dot").sample_a == ("m0", "m1")
    assert found.collector() is None
    assert not (found.path / "store").exists()
    assert "6 of 6 samples of task 'code' were cut off at 5 tokens." in found.record["notes"]
    assert found.record["model"]["dtype"] == "bfloat16"
    assert found.record["seeds"] == {"relabelings": 3, "weights": 3}
    assert found.top_pairs().attributes["task_a"] == "math"


def test_a_task_that_is_not_compared_is_collected(copy):
    config = make_config(copy, reference=None, statistics={"run": False}, prediction={"run": False})
    assert running.run_measurement(config, copy / "run", progress=False).collector().tasks == TASKS


def test_a_memory_budget_fixes_the_passes_of_a_replay(copy):
    config = make_config(copy, **SMALL, memory_budget="4GB")
    found = running.run_measurement(config, copy / "run", progress=False)
    assert found.config.tokens.micro_batch >= 1
    running.run_measurement(found.config, copy / "again", progress=False)
    assert files(copy / "again") == files(copy / "run")


def test_scores_beyond_the_memory_are_made_in_files(whole, copy, monkeypatch):
    monkeypatch.setattr(run_inputs, "scores_in_files", lambda config, plan: True)
    running.run_measurement(make_config(copy, **SMALL), copy / "whole", progress=False)
    assert files(copy / "whole") == files(whole)


def refused_before(copy, error, shown, config=None):
    with pytest.raises(error, match=shown) as raised:
        running.run_measurement(config or make_config(copy, **SMALL), copy / "run", progress=False)
    assert not (copy / "run").exists()
    return raised.value.exit_status


def test_a_full_disk_is_told_beforehand(copy, monkeypatch):
    usage = collections.namedtuple("usage", "free")(1000)
    monkeypatch.setattr(run_inputs.resources.shutil, "disk_usage", lambda folder: usage)
    assert refused_before(copy, errors.DiskError, r"the run needs about .* on disk and 1 kB are free") == 7


def test_too_small_a_budget_is_told_beforehand(copy):
    config = make_config(copy, **SMALL, memory_budget="1MB")
    assert refused_before(copy, errors.MemoryLimitError, r"memory_budget", config) == 8


def test_too_little_memory_is_told_beforehand(copy, monkeypatch):
    monkeypatch.setattr(run_inputs.memory, "available_bytes", lambda: 10)
    assert refused_before(copy, errors.MemoryLimitError, "the run would take") == 8


def test_a_model_that_predicts_no_token_is_refused(copy):
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "vocab_size": 300,
    }
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(copy / "model")
    assert refused_before(copy, errors.LayoutError, "predicts no next token") == 4


@pytest.mark.parametrize("name", ["./none", "/nowhere/model"])
def test_a_missing_model_is_told(copy, name):
    config = make_config(copy, **SMALL, model=name)
    assert refused_before(copy, errors.LayoutError, "There is no folder", config) == 4


def test_a_model_without_tokenizer_is_told(copy):
    shutil.rmtree(copy / "model")
    make_model(copy / "model", tokenizer=False)
    assert refused_before(copy, errors.TokenizerError, "no tokenizer") == 4


def test_options_that_do_not_go_together_are_refused_beforehand(copy):
    config = make_config(
        copy, scores={"variants": ["full"], "include_bias": True, "fisher_pool": "B"}, device="cuda:99"
    )
    assert refused_before(copy, errors.OptionError, "cuda", config) == 2


def test_names_that_a_terminal_obeys_are_only_shown(copy):
    name = "\x1b[2J../x\u202e"
    config = make_config(copy)
    tasks = {**config.tasks, name: config.tasks["math"]}
    lines = [{**one, "id": f"{name}{'y' * 5000}{i}"} for i, one in enumerate(task_lines("math", 3))]
    write_lines(copy / "math.jsonl", lines)
    del tasks["math"]
    config = dataclasses.replace(config, tasks=tasks, source=name, reference=None)
    found = running.run_measurement(config, copy / "run", progress=False)
    assert found.scores().task_a == name
    assert found.texts(name) == {one["id"]: one["text"] for one in lines}
    for file in ("config.yaml", "run.json"):
        text = (copy / "run" / file).read_text(encoding="utf-8")
        assert text.isascii()
        assert "\x1b" not in text
    assert not [one for one in copy.rglob("*") if "\x1b" in one.name]
    assert json.loads((copy / "run" / "run.json").read_text())["data"][name]["samples"] == 3


def test_time_left_is_what_was_needed_so_far_by_work():
    assert run_stages._time_left(10, 0, 5) == ""
    assert run_stages._time_left(10, 5, 10) == " (10 s so far, about 20 s to go)"
