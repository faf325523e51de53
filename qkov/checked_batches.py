"""The first few samples of a task file as one batch, for checks on a model; no measurement of the task."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from . import task_files, task_tokens
from .errors import OptionError

__all__ = ["first_samples"]


def first_samples(
    model: Any,
    path: Path | str,
    *,
    source: str,
    samples: int,
    tokens: int,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Read the first samples of a task file, cut off after some tokens, padded on the right.

    Args:
        model: For its vocabulary. path: The task file. source: Where the tokenizer is, if the file holds texts.
        samples: How many, if there are that many. tokens: Most of each.
        revision, trust_remote_code: As for :func:`qkov.model_loading.load_model`.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, ``[samples, longest]``.

    Raises:
        OptionError: Without a sample, or for more than fit a batch. TaskFileError, TokenizerError: If the file cannot be used.
    """
    if not 1 <= samples <= task_tokens.SAMPLES_PER_BATCH:
        raise OptionError(f"{samples} samples; expected 1 to {task_tokens.SAMPLES_PER_BATCH}.")
    if tokens < 2:
        raise OptionError(f"{tokens} tokens of a sample leave nothing to predict; expected at least 2.")
    found = task_files.read_task(path)
    found = dataclasses.replace(found, lines=found.lines[:samples])
    tokenizer = None
    if any(one.input_ids is None for one in found.lines):
        tokenizer = task_tokens.load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)
    vocabulary = model.get_input_embeddings().num_embeddings
    ready = task_tokens.tokenise(found, tokenizer, max_length=tokens, truncate=True, vocabulary=vocabulary)
    padding = getattr(tokenizer, "pad_token_id", None) or 0
    return {name: values.to(model.device) for name, values in next(iter(ready.batches(padding))).items()}
