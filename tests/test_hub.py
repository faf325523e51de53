"""Code that comes with a model runs only of one commit; whatever is refused is refused before anything is asked for."""

import types

import pytest
import torch
import transformers
from typer.testing import CliRunner

from qkov import cli, errors, hub, model_loading
from validation import __main__ as validation
from validation import models, pretrained, suite

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NO_COMMIT = [None, "", "main", "v1.0", COMMIT[:7], COMMIT[:39], COMMIT + "0", COMMIT.upper(), COMMIT + "\n", "g" * 40]


class Loaded(torch.nn.Module):
    """What the planted classes of transformers load."""

    def __init__(self, remote=False):
        super().__init__()
        self.config = types.SimpleNamespace(architectures=["GPT2LMHeadModel"], model_type="gpt2")
        if remote:
            self.config.auto_map = {"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M"}


@pytest.fixture(params=[False, True], ids=["own", "remote"])
def remote(request):
    """Whether the model names a class of its own."""
    return request.param


@pytest.fixture
def asked(monkeypatch, remote):
    """Replace everything of transformers that would ask the hub; the list of what was asked for."""
    calls = []

    def planted(name, found):
        return classmethod(lambda cls, *arguments, **options: calls.append((name, arguments, options)) or found)

    model = Loaded(remote)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", planted("config", model.config))
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoModel):
        monkeypatch.setattr(auto, "from_pretrained", planted("model", model))
        monkeypatch.setattr(auto, "from_config", planted("built", model))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", planted("tokenizer", "tokenizer"))
    return calls


LOADERS = {
    "command line": lambda name, **options: model_loading.load_model(name, **options),
    "configuration": lambda name, **options: model_loading.load_model(name, config_only=True, **options),
    "validation": lambda name, **options: pretrained.load_causal_lm(name, **options),
}


def test_no_code_runs_by_default():
    assert hub.loading_options("owner/model") == {"trust_remote_code": False, "local_files_only": False}


@pytest.mark.parametrize("revision", NO_COMMIT, ids=ascii)
def test_code_without_a_commit_is_refused_before_anything_is_asked(asked, revision):
    for load in LOADERS.values():
        with pytest.raises(errors.OptionError, match="expected a commit, 40 digits"):
            load("owner/model", revision=revision, trust_remote_code=True)
    assert asked == []


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("options", [{}, {"revision": "v1.0"}, {"revision": COMMIT, "trust_remote_code": True}])
def test_every_question_to_the_hub_holds_the_revision_and_the_trust(asked, remote, loader, options):
    LOADERS[loader]("owner/model", **options)
    assert {name for name, *_ in asked} == {
        "command line": {"config", "model"},
        "configuration": {"config", "built"},
        "validation": {"tokenizer", "model"},
    }[loader]
    trusted = options.get("trust_remote_code", False)
    for name, _, given in asked:
        assert given["trust_remote_code"] is trusted
        if name != "built":
            assert given.get("revision") == options.get("revision")
        # What a class of transformers itself is built from would refuse the keyword.
        if name != "built" or remote:
            assert given.get("code_revision") == (COMMIT if trusted else None)
        else:
            assert "code_revision" not in given


def test_a_folder_has_no_revision_and_its_code_is_not_run(tmp_path):
    assert hub.loading_options(tmp_path) == {"trust_remote_code": False, "local_files_only": True}
    for options in ({"revision": COMMIT}, {"trust_remote_code": True}, {"revision": COMMIT, "trust_remote_code": True}):
        with pytest.raises(errors.OptionError, match="is a folder"):
            hub.loading_options(tmp_path, **options)


def test_the_command_line_refuses_with_the_status_of_usage(asked):
    for options in ([], ["--revision", "main"]):
        result = CliRunner().invoke(cli.app, ["inspect", "owner/model", "--trust-remote-code", *options])
        assert result.exit_code == 2
        assert "expected a commit" in result.stderr
    assert asked == []


def test_the_command_line_passes_both_on(monkeypatch):
    seen = {}

    def stop(name, **options):
        seen.update(options)
        raise errors.LayoutError("seen")

    monkeypatch.setattr(model_loading, "load_model", stop)
    CliRunner().invoke(cli.app, ["inspect", "owner/model", "--trust-remote-code", "--revision", COMMIT])
    assert (seen["revision"], seen["trust_remote_code"]) == (COMMIT, True)


def test_validation_refuses_before_it_measures(monkeypatch, capsys):
    monkeypatch.setattr(validation, "gather", lambda options: pytest.fail("measured"))
    assert validation.main(["--model", "owner/model", "--trust-remote-code", "--revision", "main"]) == 2
    assert "expected a commit" in capsys.readouterr().out


def test_validation_passes_both_on_to_the_process_that_loads(monkeypatch):
    given = validation.hub_options(validation.parse_arguments(["--revision", COMMIT, "--trust-remote-code"]))
    assert given == {"revision": COMMIT, "trust_remote_code": True}
    seen = []

    def stop(name, *, device, **options):
        seen.append((name, device, options))
        raise OSError("seen")

    monkeypatch.setattr(models.pretrained, "load_causal_lm", stop)
    with pytest.raises(OSError, match="seen"):
        suite.measure_loaded("owner/model", "cpu", **given)
    assert seen == [("owner/model", "cpu", given)]
