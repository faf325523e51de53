"""Samples of task files as tokens: the model's own tokenizer, prompts masked from the loss, batches padded.
::

    text alone          as the tokenizer gives it, special tokens included
    prompt and text     begin + prompt + text + end     prompt and text tokenised apart and joined; begin, end: what special
                        -100 ... -100 | in the loss     tokens the tokenizer puts around the prompt alone
    input_ids           as they are
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import hub
from .errors import TaskFileError, TokenizerError
from .task_files import NOT_IN_LOSS, TaskFile, TaskLine

SAMPLES_PER_BATCH = 32


@dataclass(frozen=True)
class TokenisedTask:
    """A task ready to be collected.

    Attributes:
        source: The file. ids, labels: Of each sample, unpadded. num_truncated: How many were cut off.
    """

    source: TaskFile
    ids: tuple[tuple[int, ...], ...]
    labels: tuple[tuple[int, ...], ...]
    num_truncated: int

    @property
    def num_tokens(self) -> int:
        """Tokens of all samples."""
        return sum(map(len, self.ids))

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(map(len, self.ids))

    def batches(self, padding: int = 0) -> Iterator[dict[str, Any]]:
        """Yield batches in the order of the file, padded on the right to the longest sample of each."""
        for start in range(0, len(self.ids), SAMPLES_PER_BATCH):
            part = slice(start, start + SAMPLES_PER_BATCH)
            yield _padded(self.ids[part], self.labels[part], padding)


def load_tokenizer(source: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """Load the tokenizer of a model.

    Raises:
        TokenizerError: If there is none, with the reason that transformers gives.
        OptionError: If code is to run that no commit pins.
    """
    import transformers

    options = hub.loading_options(source, revision=revision, trust_remote_code=trust_remote_code)
    try:
        return transformers.AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise TokenizerError(
            f"{source!r} has no tokenizer that can be loaded: {reason}. Save one beside the model "
            "(tokenizer.save_pretrained), or give 'input_ids' instead of 'text' in the task files."
        ) from error


def tokenise(task: TaskFile, tokenizer: Any, *, max_length: int, truncate: bool, vocabulary: int) -> TokenisedTask:
    """Turn the samples of a file into tokens.

    Args:
        task: The file. tokenizer: Of the model; None will do where all lines have ``input_ids``.
        max_length: Most tokens of a sample. truncate: Cut longer ones off at their end instead of refusing them.
        vocabulary: How many tokens the model knows.

    Raises:
        TaskFileError: If a sample is too long or has no token to predict; the message names file, line and id.
        TokenizerError: If the tokenizer gives tokens that the model does not know.
    """
    ids, labels, num_truncated = [], [], 0
    for line in task.lines:
        where = f"{str(task.path)!r}, line {line.number} (id {line.sample_id!r:.80})"
        tokens, targets = _of_line(line, tokenizer)
        _check_known(where, line, tokens, vocabulary)
        if len(tokens) > max_length:
            if not truncate:
                raise TaskFileError(
                    f"{where} has {len(tokens)} tokens; max_length is {max_length}. Shorten it, raise tokens.max_length, or "
                    "set tokens.truncate (--truncate) to cut such samples off."
                )
            num_truncated += 1
        tokens, targets = tokens[:max_length], targets[:max_length]
        if all(one == NOT_IN_LOSS for one in targets[1:]):
            cut = " after it was cut off" if len(tokens) == max_length and truncate else ""
            raise TaskFileError(
                f"{where} has no token to predict{cut}: {len(tokens)} tokens, and the first has nothing before it. Give it "
                "a longer text, or leave the sample out."
            )
        ids.append(tuple(tokens))
        labels.append(tuple(targets))
    return TokenisedTask(task, tuple(ids), tuple(labels), num_truncated)


def _of_line(line: TaskLine, tokenizer):
    if line.input_ids is not None:
        return line.input_ids, line.labels or line.input_ids
    whole = _ids(tokenizer, line.prompt or line.text)
    if not line.prompt:
        return whole, whole
    prompt, text = (_ids(tokenizer, part, add_special_tokens=False) for part in (line.prompt, line.text))
    begin, end = _around(whole, prompt)
    masked = len(begin) + len(prompt)
    return [*begin, *prompt, *text, *end], [NOT_IN_LOSS] * masked + [*text, *end]


def _ids(tokenizer, text, **options):
    # Not verbose: what is too long for the tokenizer's own limit is told by the limit of the run.
    return list(tokenizer(text, verbose=False, **options)["input_ids"])


def _around(whole, part):
    """What special tokens stand before and after."""
    for start in range(len(whole) - len(part) + 1):
        if whole[start : start + len(part)] == part:
            return whole[:start], whole[start + len(part) :]
    raise TokenizerError(
        "the tokenizer gives a text other tokens with special tokens around it than without, so that a prompt cannot be "
        "told from its text. Give 'input_ids' and 'labels' instead of 'prompt' and 'text'."
    )


def _check_known(where, line, tokens, vocabulary):
    if max(tokens, default=0) < vocabulary:
        return
    found = f"{where} has token {max(tokens)}; the model knows 0 to {vocabulary - 1}."
    if line.input_ids is not None:
        raise TaskFileError(f"{found} Make the ids with the model's own tokenizer.")
    raise TokenizerError(f"{found} The tokenizer is not that of the model: save the right one beside it.")


def _padded(ids, labels, padding):
    import torch

    width = max(map(len, ids))

    def table(rows, filled):
        return torch.tensor([[*row, *[filled] * (width - len(row))] for row in rows])

    return {
        "input_ids": table(ids, padding),
        "attention_mask": table([[1] * len(row) for row in ids], 0),
        "labels": table(labels, NOT_IN_LOSS),
    }
