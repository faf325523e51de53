"""Samples become tokens: prompts masked, special tokens where the tokenizer puts them, nothing cut off unasked."""

import pytest
import torch
from tokenizers import processors

from qkov import errors, task_files, task_tokens

from .runs import make_model, make_tokenizer, write_lines

OPTIONS = {"max_length": 8, "truncate": False, "vocabulary": 257}


def tokenised(tmp_path, lines, tokenizer=None, **changes):
    file = task_files.read_task(write_lines(tmp_path / "t.jsonl", lines))
    return task_tokens.tokenise(file, tokenizer or make_tokenizer(), **{**OPTIONS, **changes})


@pytest.fixture
def framed():
    """A tokenizer that puts token 256 before and token 0 after a text."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A !", special_tokens=[("<s>", 256), ("!", 0)]
    )
    return tokenizer


def code(tokenizer, text):
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_all_tokens_of_a_text_are_in_the_loss(tmp_path):
    found = tokenised(tmp_path, [{"id": 1, "text": "2+2"}])
    assert found.ids == (code(make_tokenizer(), "2+2"),)
    assert found.labels == found.ids
    assert (found.num_tokens, found.longest, found.num_truncated) == (3, 3, 0)


def test_a_prompt_stands_before_the_text_and_is_not_in_the_loss(tmp_path):
    found = tokenised(tmp_path, [{"id": 1, "text": "=4", "prompt": "2+2"}])
    assert found.ids == (code(make_tokenizer(), "2+2=4"),)
    assert found.labels == ((-100,) * 3 + code(make_tokenizer(), "=4"),)


def test_special_tokens_are_where_the_tokenizer_puts_them(tmp_path, framed):
    found = tokenised(tmp_path, [{"id": 1, "text": "ab"}, {"id": 2, "text": "b", "prompt": "a"}], framed)
    assert found.ids[0] == found.ids[1] == (256, *code(framed, "ab"), 0)
    assert found.labels[1] == (-100, -100, *code(framed, "b"), 0)
    assert found.labels[0] == found.ids[0]


def test_an_empty_prompt_is_none(tmp_path, framed):
    found = tokenised(tmp_path, [{"id": 1, "text": "ab", "prompt": ""}], framed)
    assert found.ids == ((256, *code(framed, "ab"), 0),)


def test_token_ids_need_no_tokenizer(tmp_path):
    lines = [{"id": 1, "input_ids": [3, 4, 5], "labels": [-100, -100, 5]}, {"id": 2, "input_ids": [3, 4]}]
    file = task_files.read_task(write_lines(tmp_path / "t.jsonl", lines))
    found = task_tokens.tokenise(file, None, **OPTIONS)
    assert (found.ids, found.labels) == (((3, 4, 5), (3, 4)), ((-100, -100, 5), (3, 4)))


def test_batches_are_padded_on_the_right_and_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(task_tokens, "SAMPLES_PER_BATCH", 2)
    found = tokenised(tmp_path, [{"id": i, "input_ids": list(range(1, i + 3))} for i in range(3)])
    first, second = found.batches(9)
    assert first["input_ids"].tolist() == [[1, 2, 9], [1, 2, 3]]
    assert first["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert first["labels"].tolist() == [[1, 2, -100], [1, 2, 3]]
    assert second["input_ids"].tolist() == [[1, 2, 3, 4]]
    assert second["input_ids"].dtype == torch.int64


def test_a_long_sample_is_refused_unless_it_may_be_cut_off(tmp_path):
    lines = [{"id": "a", "text": "x" * 8}, {"id": "b", "text": "y" * 9}]
    with pytest.raises(errors.TaskFileError, match=r"line 2 \(id 'b'\) has 9 tokens; max_length is 8.*--truncate"):
        tokenised(tmp_path, lines)
    found = tokenised(tmp_path, lines, truncate=True)
    assert (found.longest, found.num_truncated) == (8, 1)
    assert found.ids[1] == code(make_tokenizer(), "y" * 8)


@pytest.mark.parametrize(
    ("line", "truncate"),
    [
        ({"text": "x"}, False),
        ({"input_ids": [3, 4], "labels": [3, -100]}, False),
        ({"text": "b", "prompt": "a" * 8}, True),
    ],
)
def test_a_sample_without_a_token_to_predict_is_refused(tmp_path, line, truncate):
    with pytest.raises(errors.TaskFileError, match=r"line 1 \(id 7\) has no token to predict"):
        tokenised(tmp_path, [{"id": 7, **line}], truncate=truncate)


def test_tokens_that_the_model_does_not_know_are_refused(tmp_path):
    with pytest.raises(errors.TaskFileError, match="has token 257; the model knows 0 to 256") as raised:
        tokenised(tmp_path, [{"id": 7, "input_ids": [3, 257]}])
    assert raised.value.exit_status == 3
    with pytest.raises(errors.TokenizerError, match="tokenizer is not that of the model") as raised:
        tokenised(tmp_path, [{"id": 7, "text": "ab"}], vocabulary=3)
    assert raised.value.exit_status == 4


def test_a_tokenizer_that_changes_a_text_between_special_tokens_takes_no_prompt(tmp_path):
    def odd(text, *, add_special_tokens=True, **_options):
        return {"input_ids": [5, 6] if add_special_tokens else [7]}

    with pytest.raises(errors.TokenizerError, match="Give 'input_ids' and 'labels'"):
        tokenised(tmp_path, [{"id": 1, "text": "a", "prompt": "b"}], odd)


def test_a_model_without_tokenizer_is_told(tmp_path):
    make_model(tmp_path / "model", tokenizer=False)
    with pytest.raises(errors.TokenizerError, match=r"has no tokenizer that can be loaded.*Save one beside"):
        task_tokens.load_tokenizer(str(tmp_path / "model"))
    (tmp_path / "model" / "tokenizer.json").write_text("{")
    with pytest.raises(errors.TokenizerError, match="has no tokenizer"):
        task_tokens.load_tokenizer(str(tmp_path / "model"))


def test_the_tokenizer_beside_a_model_is_loaded(tmp_path):
    make_model(tmp_path / "model")
    assert code(task_tokens.load_tokenizer(str(tmp_path / "model")), "é2") == code(make_tokenizer(), "é2")
