"""A configuration is complete, says what is wrong with it, and comes back from YAML as it was."""

import contextlib
import dataclasses
import os

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from qkov import errors, run_config, run_yaml
from qkov.run_config import RunConfig

LEAST = {"model": "gpt2", "tasks": {"math": "math.jsonl", "code": "code.jsonl"}, "source": "math", "target": "code"}


def refused(content, *shown):
    with pytest.raises(errors.ConfigError) as raised:
        RunConfig.from_dict(content)
    assert raised.value.exit_status == 2
    for text in shown:
        assert text in str(raised.value), str(raised.value)


def test_defaults_are_written_out():
    found = yaml.safe_load(RunConfig.from_dict(LEAST).to_yaml())
    assert found == {
        "format": "qkov-run-1",
        "model": {
            "name": "gpt2",
            "revision": None,
            "dtype": "float32",
            "attention": None,
            "trust_remote_code": False,
            "weights": True,
        },
        "tasks": {"math": {"path": "math.jsonl", "sha256": None}, "code": {"path": "code.jsonl", "sha256": None}},
        "source": "math",
        "target": "code",
        "reference": None,
        "tokens": {"max_length": 512, "truncate": False, "micro_batch": None},
        "scores": {
            "variants": ["unsigned"],
            "fisher_pool": "pooled",
            "aggregate": "mean",
            "layers": None,
            "max_samples": None,
            "include_bias": False,
        },
        "statistics": {"run": True, "clusters": "auto", "n_permutations": None, "alpha": 0.05},
        "prediction": {"run": True, "optimiser": "sgd"},
        "device": "cpu",
        "memory_budget": None,
        "seed": 0,
        "keep_store": True,
    }


def test_order_of_tasks_is_kept():
    turned = {**LEAST, "tasks": dict(reversed(LEAST["tasks"].items()))}
    assert list(yaml.safe_load(RunConfig.from_dict(turned).to_yaml())["tasks"]) == ["code", "math"]


@pytest.mark.parametrize("name", ["model", "tasks", "source", "target"])
def test_a_missing_key_is_named(name):
    refused({key: value for key, value in LEAST.items() if key != name}, f"key {name!r} is missing; expected")


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"modle": 1}, ["key 'modle' is not known. Did you mean 'model'?"]),
        ({"folder": "/"}, ["key 'folder' is not known."]),
        ({"zzz": 1}, ["key 'zzz' is not known. Expected some of model, tasks"]),
        ({"scores": {"varients": []}}, ["key 'scores.varients' is not known. Did you mean 'variants'?"]),
        ({"scores": {"variants": []}}, ["'scores.variants' is ()", "unsigned, natural"]),
        ({"scores": {"variants": ["unsined"]}}, ["unsined"]),
        ({"scores": {"variants": [["unsigned"]]}}, ["'scores.variants'"]),
        ({"scores": {"variants": ["dot", "dot"]}}, ["each once"]),
        ({"scores": {"layers": [0, True]}}, ["'scores.layers'"]),
        ({"scores": []}, ["'scores' is []; expected keys with values"]),
        ({"scores": {"fisher_pool": "C"}}, ["one of A, B, pooled"]),
        ({"tokens": {"max_length": "512"}}, ["'tokens.max_length' is '512'; expected a whole number of at least 1"]),
        ({"tokens": {"max_length": True}}, ["'tokens.max_length' is True"]),
        ({"tokens": {"truncate": 1}}, ["true or false"]),
        ({"statistics": {"alpha": 1.0}}, ["'statistics.alpha'", "between 0 and 1"]),
        ({"statistics": {"alpha": float("nan")}}, ["'statistics.alpha'"]),
        ({"statistics": {"clusters": "mine"}}, ["one of auto, given, iid"]),
        ({"prediction": {"optimiser": None}}, ["'prediction.optimiser'"]),
        ({"memory_budget": "8 apples"}, ["'memory_budget' is '8 apples'; expected a size such as 8GB"]),
        ({"memory_budget": True}, ["'memory_budget'"]),
        ({"seed": -1}, ["'seed' is -1"]),
        ({"seed": 2**63}, ["'seed'"]),
        ({"device": ""}, ["'device' is ''"]),
        ({"model": 3}, ["'model' is 3"]),
        ({"model": {"dtype": "float32"}}, ["key 'model.name' is missing"]),
        ({"model": {"name": "x", "dtype": "float16"}}, ["'model.dtype' is 'float16'; expected one of float32, bfloat16"]),
        ({"model": "\ud800"}, ["'model.name'"]),
        ({"tasks": {"math": "m", False: "c"}}, ["has the key False", "quotes"]),
        ({"tasks": {"math": "m", "code": {"path": 3}}}, ["'tasks.code.path' is 3"]),
        ({"tasks": {"math": "m", "code": {"path": "c", "sha256": "xy"}}}, ["'tasks.code.sha256'", "64 digits"]),
        ({"tasks": {"math": "m", "": "c"}}, ["'tasks' names ''"]),
        ({"tasks": ["math"]}, ["'tasks' is ['math']"]),
        ({"target": "cod"}, ["'target' is 'cod', which is none of the tasks", "Did you mean 'code'?"]),
        ({"target": "math"}, ["expected different tasks"]),
        ({"reference": "code"}, ["expected different tasks"]),
        ({"format": "qkov-run-9"}, ["'format' is 'qkov-run-9'"]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_by_its_key(change, shown):
    refused({**LEAST, **change}, *shown)


def test_values_are_checked_wherever_they_come_from():
    config = RunConfig.from_dict(LEAST)
    with pytest.raises(errors.ConfigError, match="'seed'"):
        dataclasses.replace(config, seed="0")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(errors.ConfigError) as raised:
        RunConfig.from_dict({**LEAST, "device": ["x" * 10_000]})
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"a: &x 1\nb: *x", "line 2 uses the anchor 'x'"),
        (b"model: a\nmodel: b", "line 2 gives the key 'model' a second time"),
        (b"a: [{b: 1, b: 2}]", "gives the key 'b' a second time"),
        (b"? [a]\n: b", "line 1 has a key that is no text"),
        (b"a: !!python/object/apply:os.system [ls]", "is not plain YAML"),
        (b"a: 2020-99-99", "is not plain YAML"),
        (b"a: b: c", "is not plain YAML"),
        (b"a: 1\n---\na: 2", "is not plain YAML"),
        (b"[" * 100, "nested more than 20 deep"),
        (b"a: \xff", "is not UTF-8 at byte 3"),
        (b"#" * (2**20 + 1), "at most 1048576"),
        (b"", "the configuration is None"),
        (b"a: \x00", "is not plain YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_by_name(tmp_path, text, shown):
    path = tmp_path / "run.yaml"
    path.write_bytes(text)
    with pytest.raises(errors.ConfigError, match=r"run\.yaml") as raised:
        run_config.read_config(path)
    assert shown in str(raised.value)


def test_a_missing_file_is_refused_with_an_example(tmp_path):
    with pytest.raises(errors.ConfigError, match=r"cannot read the configuration.*Expected a YAML file such as\nmodel"):
        run_config.read_config(tmp_path / "none.yaml")
    with pytest.raises(errors.ConfigError, match="cannot read"):
        run_config.read_config(tmp_path)


def test_the_example_is_a_configuration():
    assert RunConfig.from_dict(run_yaml.parse(run_yaml.EXAMPLE)) == RunConfig.from_dict(LEAST)


def test_a_key_is_told_with_its_file(tmp_path):
    (tmp_path / "run.yaml").write_text("model: gpt2\nseeds: 3")
    with pytest.raises(errors.ConfigError, match=r"run\.yaml.*'seeds' is not known. Did you mean 'seed'"):
        run_config.read_config(tmp_path / "run.yaml")


def test_paths_begin_in_the_folder_of_the_file_and_move_with_it(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "model").mkdir()
    config = RunConfig.from_dict(LEAST | {"model": "model"}, folder=tmp_path)
    assert config.task_path("math") == tmp_path / "math.jsonl"
    assert config.model_source == str(tmp_path / "model")
    moved = config.relative_to(tmp_path / "a")
    assert (moved.model.name, moved.tasks["math"].path) == ("../model", "../math.jsonl")
    assert os.path.samefile(moved.model_source, tmp_path / "model")
    inside = config.relative_to(tmp_path)
    assert inside.model.name == "./model"  # never to be taken for a name on the hub
    assert inside.relative_to(tmp_path / "a") == moved


def test_a_name_on_the_hub_stays_one(tmp_path):
    config = RunConfig.from_dict(LEAST, folder=tmp_path)
    assert (config.model_source, config.relative_to(tmp_path / "a").model.name) == ("gpt2", "gpt2")


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
tasks = st.dictionaries(texts, texts, min_size=3, max_size=5)
options = st.fixed_dictionaries(
    {},
    optional={
        "scores": st.fixed_dictionaries(
            {},
            optional={
                "variants": st.lists(st.sampled_from(run_config.EVERY_VARIANT), min_size=1, unique=True),
                "layers": st.lists(st.integers(0, 2**70), min_size=1, unique=True),
            },
        ),
        "statistics": st.fixed_dictionaries({"alpha": st.floats(0, 1, exclude_min=True, exclude_max=True)}),
        "memory_budget": st.integers(1, 2**70) | st.sampled_from(["8GB", "1.5 GiB"]),
        "device": texts,
        "seed": st.integers(0, 2**63 - 1),
        "keep_store": st.booleans(),
    },
)


@given(texts, tasks, options)
@settings(max_examples=100)
def test_yaml_gives_back_what_was_written(model, files, rest):
    names = list(files)
    content = {"model": model, "tasks": files, "source": names[0], "target": names[1], "reference": names[2], **rest}
    config = RunConfig.from_dict(content)
    text = config.to_yaml()
    assert text.isascii()
    assert not set(text) & {"\x1b", "\x00"}
    back = RunConfig.from_dict(run_yaml.parse(text))
    assert back == config
    assert back.to_yaml() == text
    assert list(back.tasks) == names


@given(st.text(max_size=60) | st.text(alphabet=":-[]{}&*!|>'\"%@`#, \n?ab", max_size=60))
@settings(max_examples=100)
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(errors.ConfigError):
        RunConfig.from_dict(run_yaml.parse(text))
