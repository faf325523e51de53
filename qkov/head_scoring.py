"""Score the heads of a model by what they attend to, on repeated random tokens or on inputs of your own."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from . import attention_patterns, errors, head_types, losses, pattern_scores, reproducibility, samples
from .layout import QKOVConfig, uncompiled

if TYPE_CHECKING:
    from torch import nn

    from .head_types import HeadTypes
    from .option_types import Batch


SPECIAL_NAMES = ("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id")
SHORTEST = 8  # tokens, so that periods between a quarter and a half of them can differ


def score_head_types(
    model: nn.Module,
    *,
    inputs: Batch | torch.Tensor | None = None,
    attention: str | None = None,
    length: int = 64,
    number: int = 16,
    seed: int = 0,
    token_range: tuple[int, int] | None = None,
    bos: int | str = "config",
    special_tokens: Iterable[int] | None = None,
    batch_size: int = 4,
    threshold: float = head_types.THRESHOLD,
) -> HeadTypes:
    """Measure for every query head where it looks: previous, same, duplicate, induction, first and positional.

    :mod:`qkov.pattern_scores` defines the scores. The model runs in eval mode under eager attention, once per batch, and
    is as before afterwards.

    Args:
        model: A causal model or an encoder of transformers, or any whose attention modules return their patterns. Of an
            encoder-decoder pass a part, such as ``model.get_encoder()``.
        inputs: Mapping of ``input_ids [N, T]`` and ``attention_mask`` (padding on the right), or ``input_ids`` alone.
            If not given, :func:`repeated_tokens` of the next options: on them no head can tell content from frequency,
            and every token of the second half has been seen before.
        attention: Which kind of attention, where the model has several; as for :meth:`qkov.QKOVConfig.from_model`.
        length: Tokens of a sequence; fewer where the model has fewer positions.
        number: Sequences.
        seed: Chooses the tokens.
        token_range: ``(first, stop)`` of the token ids to draw from; the whole vocabulary if not given.
        bos: What stands before each sequence: "config" (the configuration's beginning-of-sequence token, if it has
            one), "none", or a token id.
        special_tokens: Ids without content, which are neither drawn nor queries or targets; those that the configuration
            names (beginning, end, padding, separator, class) if not given.
        batch_size: Sequences per forward pass; patterns of one pass are in memory together.
        threshold: For the labels, see :meth:`HeadTypes.label`.

    Returns:
        A :class:`HeadTypes`.

    Raises:
        PatternError: If the model gives no attention patterns.
        OptionError: If options contradict each other or the model.
        BatchError, ShapeError: If the inputs hold no tokens, ids that the model does not embed, or padding on the left.

    Example:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> model = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=8, n_layer=2, n_head=2, n_positions=16,
        ...                                    bos_token_id=None, eos_token_id=None))
        >>> types = score_head_types(model, length=16)
        >>> types.score("induction").shape
        (2, 2)
    """
    model = uncompiled(model)
    if "decoder_input_ids" in inspect.signature(model.forward).parameters:
        raise errors.PatternError(
            f"{type(model).__name__} has an encoder and a decoder, which read different tokens. Pass one of them, for"
            " example model.get_encoder()."
        )
    if not losses.accepts(model, "input_ids"):
        raise errors.PatternError(f"{type(model).__name__} reads no token ids, by which head types are told.")
    config = QKOVConfig.from_model(model, attention=attention)
    special = _special_tokens(model) if special_tokens is None else tuple(int(one) for one in special_tokens)
    if inputs is None:
        length = min(length, _longest(model))
        first = _first_token(model, bos)
        tokens = repeated_tokens(
            number, length, seed=seed, token_range=token_range or (0, _vocabulary(model)), bos=first, exclude=special
        )
        batch, special = {"input_ids": tokens}, special if first is None else (*special, first)
        start = "" if first is None else f", after token {first}"
        facts = {"inputs": f"{number} sequences of {length} repeated random tokens{start}", "seed": seed}
    else:
        batch = dict(inputs) if hasattr(inputs, "keys") else {"input_ids": inputs}
        facts = {"inputs": "{} sequences of at most {} given tokens".format(*_checked(batch).shape), "seed": None}
    samples.check_tokens(model, batch)
    return _scored(model, config, batch, sorted(set(special)), batch_size, facts | {"threshold": threshold})


def repeated_tokens(
    number: int,
    length: int,
    *,
    seed: int,
    token_range: tuple[int, int],
    bos: int | None = None,
    exclude: Collection[int] = (),
) -> torch.Tensor:
    """Draw sequences that repeat a random piece, each with a length of its own: ``[number, length]``.

    The piece is between a quarter and a half of the sequence long and holds no token twice. Were all pieces equally long,
    a head that looks back by that length, whatever stands there, would pass for an induction head.

    Args:
        number, length: Sequences, and tokens of each, ``bos`` included.
        seed: Chooses pieces and tokens.
        token_range: ``(first, stop)`` of the ids.
        bos: Id that stands first, or None.
        exclude: Ids that are not drawn.

    Raises:
        OptionError: If sequences are too short, or the range holds too few tokens.
    """
    content = length - (bos is not None)
    if number < 1 or content < SHORTEST:
        raise errors.OptionError(
            f"{number} sequences of {content} repeated tokens; expected at least 1 of at least {SHORTEST}. Pass a larger"
            " length, or inputs of your own."
        )
    pool = torch.tensor([one for one in range(*token_range) if one not in {*exclude, bos}])
    shortest, longest = content // 4, content // 2
    if len(pool) < longest:
        raise errors.OptionError(
            f"token_range {tuple(token_range)} without {len(set(exclude))} special tokens holds {len(pool)} tokens;"
            f" expected at least {longest} for sequences of {content}. Pass a smaller length."
        )
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(number):
        period = int(torch.randint(shortest, longest + 1, (), generator=generator))
        piece = pool[torch.randperm(len(pool), generator=generator)[:period]]
        row = piece.repeat(-(-content // period))[:content]
        rows.append(row if bos is None else torch.cat([torch.tensor([bos]), row]))
    return torch.stack(rows)


def _scored(
    model: nn.Module,
    config: QKOVConfig,
    batch: Mapping[str, Any],
    special: Sequence[int],
    batch_size: int,
    facts: dict[str, Any],
) -> HeadTypes:
    tokens = _checked(batch)
    real = losses.real_tokens(batch).cpu()
    pattern_scores.check_padding(real)
    device = next(model.parameters()).device
    sums: dict[int, dict[str, Any]]
    causal: bool | Any  # None until the first batch
    sums, causal = {layout.layer: {} for layout in config.layers}, None
    for start in range(0, len(tokens), batch_size):
        rows = slice(start, start + batch_size)
        part = samples.select_rows(batch, rows, device)
        if start == 0:
            attention_patterns.check_same_function(model, part)
        patterns = attention_patterns.attention_patterns(model, part, config)
        if causal is None:
            causal = attention_patterns.is_causal(patterns)
        elif causal != attention_patterns.is_causal(patterns):
            raise errors.PatternError("some sequences are attended to causally and others in both directions.")
        masks = {"real": real[rows], "special": torch.isin(tokens[rows], torch.tensor(special, dtype=tokens.dtype))}
        for layout in config.layers:
            pattern, total = patterns[layout.layer].cpu(), sums[layout.layer]
            window = attention_patterns.sliding_window(model, layout, pattern) if causal else None
            found = pattern_scores.pattern_sums(pattern, tokens[rows], **masks, causal=causal, window=window)
            sums[layout.layer] = {name: total[name] + value for name, value in found.items()} if total else found
    same_length = bool((real == real[0]).all())
    return _labelled(model, config, sums, tokens, real, causal, same_length, facts | {"special_tokens": special})  # type: ignore[arg-type]  # known after the first batch


def _labelled(
    model: nn.Module,
    config: QKOVConfig,
    sums: Mapping[int, dict[str, torch.Tensor]],
    tokens: torch.Tensor,
    real: torch.Tensor,
    causal: bool,
    same_length: bool | None,
    facts: dict[str, Any],
) -> HeadTypes:
    names = pattern_scores.MEASURES
    num_heads = max(layout.num_heads for layout in config.layers)
    scores = torch.full((len(names), len(config.layers), num_heads), float("nan"), dtype=torch.float64)
    chance, offset = scores[:, :, 0].clone(), scores[0].clone()
    for row, layout in enumerate(config.layers):
        found, even, offsets = pattern_scores.finished(sums[layout.layer])
        for at, name in enumerate(names):
            scores[at, row, : layout.num_heads] = found[name]
            chance[at, row] = even[name]
        offset[row, : layout.num_heads] = offsets.double()
    if not causal and not same_length:  # rows of different lengths see different keys
        scores[names.index("positional")] = float("nan")
    missing = {name for at, name in enumerate(names) if scores[at].isnan().all()}
    facts |= {
        "not_applicable": {name: _reason(name, causal, same_length) for name in names if name in missing},
        "inputs_fingerprint": reproducibility.tensor_digest(tokens, real),
        "model_fingerprint": reproducibility.model_fingerprint(model),
        "causal": causal,
    }
    return head_types.HeadTypes(
        types=names,
        scores=scores.numpy(),
        chance=chance.numpy(),
        offset=offset.numpy(),
        layers=config.layer_indices,
        heads=range(num_heads),  # type: ignore[arg-type]  # any sequence; made a tuple there
        attributes=facts,
    )


def _reason(name: str, causal: bool, same_length: bool | None) -> str:
    if name in pattern_scores.EARLIER and not causal:
        return "it speaks of earlier tokens, and this attention looks both ways"
    if name == "positional":
        return "it compares two or more sequences" + ("" if same_length else " of one length")
    return "no query of these inputs has such a target"


def _checked(batch: Mapping[str, Any]) -> torch.Tensor:
    """Return the token ids of a batch, on the CPU."""
    tokens = batch.get("input_ids")
    if not isinstance(tokens, torch.Tensor) or tokens.ndim != 2 or not tokens.numel():
        raise errors.BatchError("head types are told from tokens; expected inputs with 'input_ids' of shape [N, T].")
    return tokens.cpu()


def _text_configuration(model: nn.Module) -> Any:
    config: Any = getattr(model, "config", None)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _vocabulary(model: nn.Module) -> int:
    size = getattr(_text_configuration(model), "vocab_size", None)
    if not size:
        raise errors.OptionError(
            f"{type(model).__name__} does not say how many tokens it knows; pass token_range, or inputs of your own."
        )
    return size


def _longest(model: nn.Module) -> int:
    config = _text_configuration(model)
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    return min([limit for limit in limits if isinstance(limit, int) and limit > 0], default=2**31)


def _special_tokens(model: nn.Module) -> tuple[int, ...]:
    config = _text_configuration(model)
    found = [getattr(config, name, None) for name in SPECIAL_NAMES]
    flat = [one for ids in found for one in (ids if isinstance(ids, list | tuple) else [ids])]
    return tuple(one for one in flat if isinstance(one, int) and one >= 0)


def _first_token(model: nn.Module, bos: int | str) -> int | None:
    if bos == "none":
        return None
    if bos == "config":
        found = getattr(_text_configuration(model), "bos_token_id", None)
        return found if isinstance(found, int) and 0 <= found < _vocabulary(model) else None
    if isinstance(bos, int) and not isinstance(bos, bool):
        return bos
    raise errors.OptionError(f"bos={bos!r}; expected 'config', 'none' or a token id.")
