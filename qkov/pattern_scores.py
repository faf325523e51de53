r"""What a head attends to, as numbers: the field's head types defined on plain tensors of attention.

``A [batch, heads, query, key]`` is attention after the softmax, ``x [batch, T]`` are the tokens. Four types are shares of
attention on target keys, averaged over the queries that have a target:

==================  ===========================================================  ==========================================
type                target keys of query q                                       source
==================  ===========================================================  ==========================================
previous_token      q - 1                                                        Elhage et al. 2021; Olsson et al. 2022
current_token       q itself
duplicate_token     k < q with the same token                                    Wang et al. 2023 ("duplicate token heads")
induction           k < q that follows an earlier occurrence of q's token        "prefix matching", Olsson et al. 2022
==================  ===========================================================  ==========================================

``first_token`` is the share on the first position, where heads rest that have nothing to do ("attention sinks", Xiao et
al. 2024). To keep it out of the others, the first position and special tokens are neither their queries nor their targets:
a query one of whose targets is such a position is not counted. They remain visible. So a perfect head of a type scores 1,
a pure sink scores 0 on all but its own, and every type has a chance value: that of attention spread evenly over what is
visible, over the same queries. Queries that see one key only are never counted.

These shares are the "mul" measure of TransformerLens' head detector but for what they divide by: there all attention,
also that of queries without a target, here that of the counted queries.

``positional`` is the share of the head's departure from even attention that is the same in every sequence, hence due to
position alone; ``non_uniformity`` the size of that departure (mean total variation distance); ``one_offset`` how often
the largest attention lies at the head's most frequent relative position ``offset = q - k``, which Voita et al. 2019 ask
to be at least 90 % of a positional head.

Sources: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"; Olsson et al. 2022, "In-context Learning
and Induction Heads"; Wang et al. 2023, "Interpretability in the Wild"; Voita et al. 2019, "Analyzing Multi-Head
Self-Attention"; Xiao et al. 2024, "Efficient Streaming Language Models with Attention Sinks".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from . import errors

TYPES = ("previous_token", "current_token", "duplicate_token", "induction", "first_token", "positional")
MEASURES = (*TYPES, "one_offset", "non_uniformity")
"""Rows of every result: the types, then what says how positional and how peaked a head is."""
EARLIER = ("duplicate_token", "induction")
"""Types that speak of earlier occurrences, and so of causal attention only."""
EVEN = 1e-4
"""A head whose squared departure from even attention is a smaller share of its squared attention than this (one percent in
amplitude) has nothing for position to explain; rounding of bfloat16, the same in every sequence, stays below it."""


def score_patterns(
    patterns: torch.Tensor,
    tokens: torch.Tensor,
    *,
    real: torch.Tensor | None = None,
    special: torch.Tensor | None = None,
    causal: bool = True,
    window: int | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, float], torch.Tensor]:
    """Score heads from their attention.

    Args:
        patterns: Attention after the softmax, ``[batch, heads, T, T]``, query by key; 0 where a query cannot look.
        tokens: Token ids, ``[batch, T]``.
        real: Which positions hold a token, bool ``[batch, T]``; padding on the right only. All of them if not given.
        special: Which positions hold no content (a beginning-of-sequence token), bool ``[batch, T]``. None if not given.
        causal: Whether a query sees no later key.
        window: How many keys a causal query sees, itself included; None is all. Targets further back do not count.

    Returns:
        ``(scores, chance, offset)``: name to float64 ``[heads]`` for each of :data:`MEASURES`, name to the value of even
        attention, and the most frequent relative position ``[heads]``. NaN where no query counts.

    Raises:
        ShapeError: If shapes do not fit, or padding is not on the right.
    """
    return finished(pattern_sums(patterns, tokens, real=real, special=special, causal=causal, window=window))


def targets(tokens: torch.Tensor, *, causal: bool = True) -> dict[str, torch.Tensor]:
    """Mark the target keys of every query: name to bool ``[batch, T, T]``, query by key.

    Args:
        tokens: Token ids, ``[batch, T]``.
        causal: Whether a query sees only keys up to its own place.

    Returns:
        A dict.
    """
    length = tokens.shape[1]
    query = torch.arange(length, device=tokens.device)[:, None]
    key = query.T
    same = tokens[:, :, None] == tokens[:, None, :]
    after_same = torch.zeros_like(same)
    after_same[:, :, 1:] = (same & (key < query))[:, :, :-1]  # key k follows k - 1, an earlier occurrence
    everywhere = torch.ones_like(same)
    marked = {
        "previous_token": everywhere & (key == query - 1),
        "current_token": everywhere & (key == query),
        "duplicate_token": same & (key < query),
        "induction": after_same & (key < query),
        "first_token": everywhere & (key == 0) & (query > 1),  # query 1 has it as its previous token
    }
    return marked if causal else {name: mask for name, mask in marked.items() if name not in EARLIER}


def pattern_sums(
    patterns: torch.Tensor,
    tokens: torch.Tensor,
    *,
    real: torch.Tensor | None = None,
    special: torch.Tensor | None = None,
    causal: bool = True,
    window: int | None = None,
) -> dict[str, torch.Tensor]:
    """Add up everything that :func:`finished` needs; sums of parts of a data set are added key by key.

    Args:
        patterns, tokens, real, special, causal, window: As for :func:`score_patterns`.

    Returns:
        Tensors by name; sums over queries, most of them one for each head.
    """
    real = torch.ones_like(tokens, dtype=torch.bool) if real is None else real
    special = torch.zeros_like(real) if special is None else special
    _check(patterns, tokens, real, special)
    attention = patterns.to(torch.float64) * real[:, None, :, None]
    length = tokens.shape[1]
    sees = real[:, :, None] & real[:, None, :]
    if causal:
        square = torch.ones(length, length, dtype=torch.bool, device=tokens.device)
        sees = sees & square.tril() & (square if window is None else square.triu(1 - window))
    num_seen = sees.sum(2)
    even = sees / num_seen.clamp_min(1)[:, :, None].to(torch.float64)
    choice = real & (num_seen > 1)
    sums = {}
    for name, target in targets(tokens, causal=causal).items():
        rows = choice & (target & sees).any(2)
        if name != "first_token":
            aside = special.clone()
            aside[:, 0] = True
            rows &= ~aside & ~(target & sees & aside[:, None, :]).any(2)
        wanted = target & sees & rows[:, :, None]
        sums[f"mass.{name}"] = torch.einsum("bhqk,bqk->h", attention, wanted.to(attention))
        sums[f"even.{name}"] = (even * wanted).sum()
        sums[f"rows.{name}"] = rows.sum().to(torch.float64)
    rows = choice[:, None, :, None]
    sums["distance"] = ((attention - even[:, None]).abs() * rows).sum((0, 2, 3)) / 2
    sums["choices"] = choice.sum().to(torch.float64)
    sums |= _position_sums(attention * rows, even * choice[:, :, None], choice)
    return sums | _offset_sums(attention, even, sees, choice)


def _position_sums(attention: torch.Tensor, even: torch.Tensor, choice: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "position.sum": attention.sum(0),  # [heads, T, T]
        "position.square": attention.square().sum((0, 3)),  # [heads, T]
        "position.departure": (attention - even[:, None]).square().sum((0, 3)),
        "position.count": choice.sum(0).to(torch.float64),  # [T]
    }


def _offset_sums(
    attention: torch.Tensor, even: torch.Tensor, sees: torch.Tensor, choice: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Count where the largest attention of each row lies, by relative position; rows with several share their vote."""
    length = choice.shape[1]
    largest = attention.masked_fill(~sees[:, None], -1.0)
    largest = (largest == largest.amax(3, keepdim=True)) & (sees & choice[:, :, None])[:, None]
    votes = largest / largest.sum(3, keepdim=True).clamp_min(1).to(torch.float64)
    places = torch.arange(length, device=choice.device)
    index = (places[:, None] - places[None, :] + length - 1).reshape(-1)

    def by_offset(values: torch.Tensor) -> torch.Tensor:  # [..., T, T] -> [..., 2 T - 1], entry d + T - 1 for offset d
        flat = values.reshape(*values.shape[:-2], -1)
        return torch.zeros(*flat.shape[:-1], 2 * length - 1, dtype=flat.dtype, device=flat.device).index_add_(
            -1, index, flat
        )

    return {
        "offset.votes": by_offset(votes.sum(0)),
        "offset.even": by_offset((even * choice[:, :, None]).sum(0)),
    }


def finished(sums: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, float], torch.Tensor]:
    """Turn the sums of :func:`pattern_sums` into ``(scores, chance, offset)``.

    Args:
        sums: Of one part of the data, or added up over several.

    Returns:
        Scores by type, ``[heads]`` each; what even attention would score, a number by type; and the favourite offset,
        ``[heads]``.
    """
    heads = sums["distance"]
    missing = torch.full_like(heads, float("nan"))
    scores, chance = {}, {}
    for name in TYPES[:-1]:
        rows: Any = sums.get(f"rows.{name}")
        counted = rows is not None and rows > 0
        scores[name] = sums[f"mass.{name}"] / rows if counted else missing
        chance[name] = float(sums[f"even.{name}"] / rows) if counted else float("nan")
    choices = sums["choices"]
    votes = sums["offset.votes"]
    scores["positional"] = position_share(sums)
    scores["one_offset"] = votes.amax(1) / choices
    scores["non_uniformity"] = sums["distance"] / choices
    chance |= {"positional": 0.0, "one_offset": float(sums["offset.even"].amax() / choices), "non_uniformity": 0.0}
    offset = votes.argmax(1) - (votes.shape[1] - 1) // 2
    return scores, chance, offset


def position_share(sums: Mapping[str, torch.Tensor]) -> torch.Tensor:
    r"""Return the share of the departure from even attention that position alone explains, ``[heads]``.

    .. math:: R = 1 - \frac{\sum_q \frac{n_q}{n_q - 1} \sum_i \lVert A_{iq} - \bar A_q \rVert^2}
                           {\sum_q \sum_i \lVert A_{iq} - U_q \rVert^2}

    :math:`A_{iq}` is the row of query position q in sequence i, :math:`\bar A_q` its mean over the :math:`n_q` sequences
    that have it, :math:`U_q` even attention. 1 if every sequence has the same rows; 0 on average if rows depend on
    content alone (the factor makes it so for few sequences), and if attention is even; NaN with fewer than two sequences.

    Args:
        sums: From :func:`pattern_sums`.

    Returns:
        Float64 ``[heads]``.
    """
    count = sums["position.count"]
    several = count > 1
    n = count.clamp_min(2)
    within = sums["position.square"] - sums["position.sum"].square().sum(2) / n
    unexplained = (within * n / (n - 1))[:, several].sum(1)
    departure, square = (sums[f"position.{name}"][:, several].sum(1) for name in ("departure", "square"))
    share = torch.where(departure > EVEN * square, 1 - unexplained / departure.clamp_min(1e-300), 0.0)
    return share if several.any() else torch.full_like(share, float("nan"))


def _check(patterns: torch.Tensor, tokens: torch.Tensor, real: torch.Tensor, special: torch.Tensor) -> None:
    if tokens.ndim != 2 or patterns.ndim != 4:
        raise errors.ShapeError(
            f"patterns have shape {tuple(patterns.shape)} and tokens {tuple(tokens.shape)}; expected"
            " [batch, heads, T, T] and [batch, T]."
        )
    batch, length = tokens.shape
    found = (patterns.shape[0], *patterns.shape[2:]), tuple(real.shape), tuple(special.shape)
    if found != ((batch, length, length), (batch, length), (batch, length)):
        raise errors.ShapeError(
            f"patterns have shape {tuple(patterns.shape)}, real {found[1]} and special {found[2]}; expected"
            f" [{batch}, heads, {length}, {length}] and [{batch}, {length}] for tokens of shape {(batch, length)}."
        )
    check_padding(real)


def check_padding(real: torch.Tensor) -> None:
    """Refuse ``real [batch, T]`` with padding before a token, so that positions of different sequences can be compared.

    Args:
        real: Which positions hold a token, bool ``[batch, T]``.

    Raises:
        ShapeError: If a position without a token comes before one with.
    """
    if (real[:, 1:] & ~real[:, :-1]).any():
        raise errors.ShapeError(
            "a sequence has a real token after padding; expected padding on the right, so that positions of different"
            " sequences can be compared."
        )
