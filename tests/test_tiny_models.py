"""Building the families of the tables, and what happens where transformers is older than they are."""

import re
from pathlib import Path

import pytest

from validation import tiny_models
from validation.architectures import ARCHITECTURES

ROOT = Path(__file__).resolve().parent.parent
UNKNOWN = tiny_models.Architecture("unknown", "NoSuchForCausalLM", sizes={"hidden_size": 8, "num_attention_heads": 2})


def test_the_tables_are_of_the_pinned_version():
    pinned = re.search(r"^transformers==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned.group(1) == tiny_models.WRITTEN_WITH


def test_what_is_missing_is_a_fault_of_the_table_unless_transformers_is_older(monkeypatch):
    monkeypatch.setattr(tiny_models.transformers, "__version__", tiny_models.WRITTEN_WITH)
    with pytest.raises(AttributeError, match="NoSuchForCausalLM"):
        tiny_models.build(UNKNOWN)
    monkeypatch.setattr(tiny_models.transformers, "__version__", "5.9.1")
    with pytest.raises(tiny_models.OlderTransformersError, match=r"transformers 5\.9\.1 has not the unknown of"):
        tiny_models.build(UNKNOWN)


def test_what_was_otherwise_is_left_out_of_an_older_version_alone(monkeypatch):
    assert ARCHITECTURES.keys() >= tiny_models.OTHERWISE
    monkeypatch.setattr(tiny_models.transformers, "__version__", "5.0.0")
    with pytest.raises(tiny_models.OlderTransformersError, match="it has other modules there"):
        tiny_models.build(ARCHITECTURES["siglip-vision"])
    tiny_models.build(ARCHITECTURES["llama"])


@pytest.mark.parametrize("hook", ["pytest_runtest_setup", "pytest_runtest_call"])
def test_a_test_of_a_family_that_is_missing_is_skipped_with_the_reason(hook, request):
    conftest = next(one for one in request.config.pluginmanager.get_plugins() if hasattr(one, "NO_DEVICE"))
    for error, seen in (
        (tiny_models.OlderTransformersError("has not the family"), pytest.skip.Exception),
        (RuntimeError("another"), RuntimeError),
    ):
        running = getattr(conftest, hook)(request.node)
        next(running)
        with pytest.raises(seen, match=str(error)):
            running.throw(error)
