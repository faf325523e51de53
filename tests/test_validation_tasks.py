"""Where the samples' text comes from, and how it becomes a batch."""

import ast
import dataclasses
import io
import os
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from validation import tasks

ROOT = Path(__file__).parents[1]
SOURCE = '''"""Module words."""
import os  # why
TEXT = "# no comment"
class Thing:
    """Class words.

    >>> 1 + 1
    2

    More words.
    """
    é = 1; "no docstring"
    def short(self): "é words"; return "kept"  # gone

    async def longer(self):
        \'\'\'Two
        lines.\'\'\'
        return """a string

# kept"""
'''


@pytest.mark.parametrize("task", ["code", "prose"])
@pytest.mark.parametrize("split", tasks.SPLITS)
def test_modules_belong_to_one_task_and_split(task, split):
    mine = set(tasks._modules_of(task, split))
    others = {
        module
        for other in ("code", "prose")
        for part in tasks.SPLITS
        if (other, part) != (task, split)
        for module in tasks._modules_of(other, part)
    }
    assert len(mine) > 30
    assert not mine & others


def test_code_keeps_strings_and_drops_docstrings_and_comments():
    code = tasks.code_text(SOURCE)
    assert "words" not in code
    assert "gone" not in code
    assert "why" not in code
    assert 'TEXT = "# no comment"' in code
    assert 'é = 1; "no docstring"' in code
    assert 'return "kept"' in code
    assert "# kept" in code
    assert "\n\n" not in code


def test_prose_keeps_docstrings_and_drops_examples():
    assert tasks._prose_text(SOURCE) == "Module words.\n\nClass words.\n\nMore words.\n\né words\n\nTwo\nlines.\n\n"


def test_code_of_the_standard_library_holds_no_comment():
    checked = 0
    for module in tasks._modules_of("code", "held_out")[:12]:
        text = tasks._module_text("code", module)
        try:
            tree = ast.parse(text)
        except SyntaxError:  # a body that was only a docstring is empty now
            continue
        assert not any(
            token.type == tokenize.COMMENT for token in tokenize.generate_tokens(io.StringIO(text.decode()).readline)
        ), module
        assert ast.get_docstring(tree) is None, module
        checked += 1
    assert checked > 3


@pytest.mark.parametrize("task", ["code", "prose"])
@pytest.mark.parametrize("split", tasks.SPLITS)
def test_an_id_says_where_the_text_came_from(task, split):
    drawn = tasks.load_task(task, 20, 96, split=split, seed=4)
    assert len(set(drawn.ids)) == len(drawn) == 20
    for sample_id, cluster, text in zip(drawn.ids, drawn.clusters, drawn.texts, strict=True):
        module, _, number = sample_id.partition(":")
        assert module == cluster
        assert module in tasks._modules_of(task, split)
        assert tasks._module_text(task, module)[96 * int(number) :].startswith(text)
        assert 72 <= len(text) <= 96
    assert len({len(text) for text in drawn.texts}) > 3
    # Two chunks of a module, then the next module.
    assert len(set(drawn.clusters)) >= 10


def test_another_process_draws_the_same_and_runs_no_module():
    program = (
        "import sys; from validation import tasks; before = set(sys.modules)\n"
        "drawn = [tasks.load_task(task, 30, seed=5) for task in tasks.TASKS]\n"
        "read = {cluster for one in drawn for cluster in one.clusters}\n"
        "print(*[one.fingerprint for one in drawn], tasks.corpus_fingerprint(), *read & (set(sys.modules) - before))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    expected = [tasks.load_task(task, 30, seed=5).fingerprint for task in tasks.TASKS]
    assert done.stdout.split() == [*expected, tasks.corpus_fingerprint()]


def test_the_corpus_is_every_module_with_enough_text():
    corpus = tasks.read_corpus("prose", "held_out")
    assert list(corpus) == sorted(corpus)
    assert 20 < len(corpus) < len(tasks._modules_of("prose", "held_out"))
    assert min(map(len, corpus.values())) >= 256
    assert not any(module.startswith(("test", "idlelib", "_sysconfigdata")) for module in corpus)


def test_fingerprint_sees_one_byte():
    drawn = tasks.load_task("code", 3)
    changed = dataclasses.replace(drawn, texts=(*drawn.texts[:2], drawn.texts[2][:-1] + b"\0"))
    assert changed.fingerprint != drawn.fingerprint
    assert tasks.load_task("code", 3, seed=1).fingerprint != drawn.fingerprint


def test_arithmetic_is_right_and_its_splits_share_no_problem():
    problems = {}
    for split in tasks.SPLITS:
        drawn = tasks.load_task("arithmetic", 36, 80, split=split)
        lines = [line for text in drawn.decoded() for line in text.split("\n")[:-1]]
        for line in lines:
            left, right = line.split(" = ")
            first, symbol, second = left.split()
            found = {"+": int(first) + int(second), "-": int(first) - int(second), "*": int(first) * int(second)}
            assert int(right) == found[symbol], line
        problems[split] = set(lines)
        assert len(set(drawn.clusters)) == 9
    assert len(problems["train"]) > 50
    assert not problems["train"] & problems["held_out"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("poetry", 1), "poetry"),
        (("code", -1), "num_samples"),
        (("code", 10**6), "1000000 were asked for"),
        (("code", 1, 10), "shortest"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        tasks.load_task(*arguments, shortest=11 if len(arguments) == 3 else None)


def test_no_samples_is_a_task_without_samples():
    empty = tasks.load_task("code", 0)
    assert len(empty) == 0
    assert tasks.as_batch(empty)["input_ids"].shape == (0, 0)


def test_left_padding_masks_the_first_real_label():
    batch = tasks.as_batch([b"abcd", b"xy"], padding="left", prompts=[2, 0])
    assert batch["input_ids"].tolist() == [[97, 98, 99, 100], [256, 256, 120, 121]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert batch["labels"].tolist() == [[-100, -100, 99, 100], [-100, -100, -100, 121]]


@given(
    texts=st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=4),
    padding=st.sampled_from(("left", "right")),
    length=st.one_of(st.none(), st.integers(1, 12)),
)
def test_a_batch_holds_the_bytes_it_was_made_of(texts, padding, length):
    batch = tasks.as_batch(texts, padding=padding, length=length)
    for text, row, mask, labels in zip(texts, *batch.values(), strict=True):
        assert bytes(row[mask.bool()].tolist()) == text[:length]
        assert (row[~mask.bool()] == tasks.PAD_ID).all()
        assert (labels[~mask.bool()] == tasks.IGNORED_LABEL).all()
        kept = labels != tasks.IGNORED_LABEL
        assert torch.equal(labels[kept], row[kept])
        first_masked = padding == "left" and len(row) > len(text[:length])
        assert int(kept.sum()) == len(text[:length]) - first_masked


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="middle"):
        tasks.as_batch([b"a"], padding="middle")
