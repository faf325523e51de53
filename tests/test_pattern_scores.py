"""The definitions of head types: hand-made heads, closed forms, a slow loop, properties, and planted mistakes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qkov import errors, pattern_scores
from qkov.pattern_scores import MEASURES, score_patterns

PERIODS = (5, 4, 6)
LENGTH = 14
ATTENTION_TYPES = pattern_scores.TYPES[:-1]


def repeated(bos=False):
    """Rows of tokens that repeat with different periods, all different within one: ``[3, 14]``; 99 stands first."""
    rows = [[(at % period) + 10 * row for at in range(LENGTH - bos)] for row, period in enumerate(PERIODS)]
    return torch.tensor([[99, *row] if bos else row for row in rows])


def attending(tokens, choose):
    """Patterns ``[batch, 1, T, T]`` of a head that looks at ``choose(row, query)`` where that is a key, else at the first."""
    patterns = torch.zeros(len(tokens), 1, LENGTH, LENGTH)
    for at, row in enumerate(tokens.tolist()):
        for query in range(LENGTH):
            key = choose(row, query)
            patterns[at, 0, query, 0 if key is None else key] = 1
    return patterns


def latest(row, query, shift):
    """The last key that is ``shift`` after an earlier occurrence of the query's token."""
    return next((k + shift for k in range(query - 1, -1, -1) if row[k] == row[query] and k + shift < query), None)


PERFECT = {
    "previous_token": lambda row, query: max(query - 1, 0),
    "current_token": lambda row, query: query,
    "duplicate_token": lambda row, query: latest(row, query, 0),
    "induction": lambda row, query: latest(row, query, 1),
    "first_token": lambda row, query: 0,
}


def even(length, batch=2):
    """Attention spread evenly over all earlier keys and the query's own."""
    return (torch.ones(length, length).tril() / torch.arange(1, length + 1)[:, None]).expand(batch, 1, -1, -1)


def perfect_scores(bos=False):
    """Every type's score of the head made for every type, ``{made for: {type: score}}``."""
    tokens = repeated(bos)
    special = tokens == 99
    found = {}
    for name, choose in PERFECT.items():
        scores = score_patterns(attending(tokens, choose), tokens, special=special)[0]
        found[name] = {kind: float(scores[kind][0]) for kind in ATTENTION_TYPES}
    return found


def wrong_about_perfect_heads(bos=False):
    """Which perfect heads do not score 1 on their own type and 0 on all others."""
    # The head of a type that has no target for a query rests on the first position.
    rest = {("duplicate_token", "first_token"), ("induction", "first_token")}
    return {
        (made_for, kind)
        for made_for, scores in perfect_scores(bos).items()
        for kind, score in scores.items()
        if (made_for, kind) not in rest and not abs(score - (made_for == kind)) <= 1e-12  # NaN is wrong too
    }


@pytest.mark.parametrize("bos", [False, True])
def test_perfect_head_scores_one_on_its_type_and_nothing_on_others(bos):
    assert not wrong_about_perfect_heads(bos)


def test_even_attention_scores_its_closed_forms():
    length = 9
    tokens = torch.arange(length).repeat(2, 1)
    tokens[:, 5] = 2  # one duplicate of one token: query 5, target 2; induction target 3
    scores, chance, _ = score_patterns(even(length), tokens)
    harmonic = sum(1 / n for n in range(1, length + 1))
    expected = {
        "previous_token": (harmonic - 1 - 1 / 2) / (length - 2),
        "current_token": (harmonic - 1) / (length - 1),
        "duplicate_token": 1 / 6,
        "induction": 1 / 6,
        "first_token": (harmonic - 1 - 1 / 2) / (length - 2),
        "positional": 0.0,
        "one_offset": (harmonic - 1) / (length - 1),
        "non_uniformity": 0.0,
    }
    for name, value in expected.items():
        assert float(scores[name][0]) == pytest.approx(value, abs=1e-7), name
        assert chance[name] == pytest.approx(value, abs=1e-12), name


def test_one_offset_of_fixed_distance_is_one_and_names_the_distance():
    tokens = repeated()
    scores, _, offset = score_patterns(attending(tokens, lambda row, query: max(query - 3, 0)), tokens)
    assert int(offset[0]) == 3
    rows = LENGTH - 1  # queries 1 and 2 look 1 and 2 back
    assert float(scores["one_offset"][0]) == pytest.approx((rows - 2) / rows)
    assert float(scores["positional"][0]) == pytest.approx(1.0)


def test_position_explains_all_of_a_fixed_pattern_and_none_of_one_drawn_anew():
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(200, 2, 8, 8, generator=generator)
    logits[:, 1] = logits[:1, 1]  # head 1: the same in every sequence
    patterns = logits.masked_fill(torch.ones(8, 8).triu(1).bool(), -math.inf).softmax(-1)
    scores, _, _ = score_patterns(patterns, torch.zeros(200, 8, dtype=torch.long))
    assert float(scores["positional"][1]) == pytest.approx(1.0)
    assert abs(float(scores["positional"][0])) < 0.03
    # The unbiased share does not grow when sequences are few.
    few = [
        float(score_patterns(patterns[at : at + 2], torch.zeros(2, 8).long())[0]["positional"][0])
        for at in range(0, 200, 2)
    ]
    assert abs(np.mean(few)) < 0.05  # a ratio of sums keeps a little bias; without the factor it would be near 0.5


def test_attention_even_but_for_rounding_leaves_position_nothing_to_explain():
    scores, _, _ = score_patterns(even(12, batch=3).bfloat16(), torch.zeros(3, 12, dtype=torch.long))
    assert float(scores["positional"][0]) == 0.0


def test_induction_head_on_equal_periods_passes_for_positional_and_not_on_different_ones():
    choose = PERFECT["induction"]
    same = torch.arange(7).repeat(3, 2) + 10 * torch.arange(3)[:, None]
    different = repeated()
    shares = [
        float(score_patterns(attending(tokens, choose), tokens)[0]["positional"][0]) for tokens in (same, different)
    ]
    assert shares[0] == pytest.approx(1.0)
    assert shares[1] < 0.6


def slow_scores(patterns, tokens, real, special, causal, window):
    """Every measure of every head by loops over sequences, queries and keys."""
    batch, heads, length, _ = patterns.shape
    values = {name: np.full(heads, np.nan) for name in MEASURES}
    values["offset"] = np.zeros(heads)

    def seen(b, q):
        last = q if causal else length - 1
        first = 0 if window is None or not causal else q - window + 1
        return [k for k in range(length) if real[b, k] and first <= k <= last]

    rows = [(b, q) for b in range(batch) for q in range(length) if real[b, q] and len(seen(b, q)) > 1]
    aims = {
        "previous_token": lambda x, q, k: k == q - 1,
        "current_token": lambda x, q, k: k == q,
        "duplicate_token": lambda x, q, k: k < q and x[k] == x[q],
        "induction": lambda x, q, k: 0 < k < q and x[k - 1] == x[q],
        "first_token": lambda x, q, k: k == 0 and q > 1,
    }
    for head in range(heads):
        a = patterns[:, head].double().numpy()
        for name, aim in aims.items():
            if not causal and name in pattern_scores.EARLIER:
                continue
            shares = []
            for b, q in rows:
                found = [k for k in seen(b, q) if aim(tokens[b].tolist(), q, k)]
                aside = name != "first_token" and any(at == 0 or special[b, at] for at in (q, *found))
                if found and not aside:
                    shares.append(sum(a[b, q, k] for k in found))
            values[name][head] = np.mean(shares) if shares else np.nan
        votes, far, unexplained, departure, square = {}, [], 0.0, 0.0, 0.0
        for b, q in rows:
            keys = seen(b, q)
            best = [k for k in keys if a[b, q, k] == max(a[b, q, j] for j in keys)]
            for k in best:
                votes[q - k] = votes.get(q - k, 0) + 1 / len(best)
            far.append(sum(abs(a[b, q, k] - (1 / len(keys) if k in keys else 0)) for k in range(length)) / 2)
        for q in range(length):
            group = [b for b, at in rows if at == q]
            if len(group) > 1:
                unexplained += sum(np.var([a[b, q, k] for b in group], ddof=1) * len(group) for k in range(length))
                for b in group:
                    keys = seen(b, q)
                    departure += sum((a[b, q, k] - (1 / len(keys) if k in keys else 0)) ** 2 for k in range(length))
                    square += sum(a[b, q, k] ** 2 for k in range(length))
        values["positional"][head] = 1 - unexplained / departure if departure > 1e-4 * square else 0.0
        values["one_offset"][head] = max(votes.values()) / len(rows)
        values["offset"][head] = min(d for d in votes if votes[d] == max(votes.values()))
        values["non_uniformity"][head] = np.mean(far)
    return values


def random_case(seed, *, causal, window=None):
    """Random attention of three sequences of different lengths, few tokens, some of them special."""
    generator = torch.Generator().manual_seed(seed)
    length, heads = 8, 2
    tokens = torch.randint(4, (3, length), generator=generator)
    real = torch.arange(length)[None] < torch.tensor([8, 6, 8])[:, None]
    special = tokens == 3
    hidden = ~real[:, None, None, :].expand(3, heads, length, length).clone()
    if causal:
        hidden |= torch.ones(length, length).triu(1).bool()
        if window is not None:
            hidden |= torch.ones(length, length).tril(-window).bool()
    logits = 2 * torch.randn(3, heads, length, length, generator=generator, dtype=torch.float64)
    patterns = logits.masked_fill(hidden, -math.inf).softmax(-1).nan_to_num()
    return patterns, tokens, real, special


def distance_to_the_loop(seed=3, *, causal=True, window=None):
    """Largest difference between scores and the slow loop; infinite where only one of them is NaN."""
    patterns, tokens, real, special = random_case(seed, causal=causal, window=window)
    scores, _, offset = score_patterns(patterns, tokens, real=real, special=special, causal=causal, window=window)
    slow = slow_scores(patterns, tokens, real, special, causal, window)
    found = {name: values.numpy() for name, values in scores.items()} | {"offset": offset.numpy()}
    if not all((np.isnan(found[name]) == np.isnan(slow[name])).all() for name in slow):
        return math.inf
    return max(float(np.nanmax(np.abs(found[name] - slow[name]), initial=0)) for name in slow)


@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 3), (False, None)])
@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_the_slow_loop(seed, causal, window):
    assert distance_to_the_loop(seed, causal=causal, window=window) < 1e-12


def off_by_one(targets):
    """Induction that looks at the earlier occurrence itself."""

    def wrong(tokens, *, causal=True):
        marked = targets(tokens, causal=causal)
        return marked | {"induction": marked["duplicate_token"]}

    return wrong


def shifted_too_far(targets):
    """Induction that looks two after the earlier occurrence."""

    def wrong(tokens, *, causal=True):
        marked = targets(tokens, causal=causal)
        return marked | {"induction": marked["induction"].roll(1, 2) & marked["current_token"].logical_not()}

    return wrong


def transposed(targets):
    """Query and key taken for each other."""
    return lambda tokens, *, causal=True: {name: mask.mT for name, mask in targets(tokens, causal=causal).items()}


@pytest.mark.parametrize("fault", [off_by_one, shifted_too_far, transposed])
def test_wrong_targets_are_caught(monkeypatch, fault):
    monkeypatch.setattr(pattern_scores, "targets", fault(pattern_scores.targets))
    assert wrong_about_perfect_heads()
    assert distance_to_the_loop() > 1e-3


def test_counting_the_first_token_is_caught(monkeypatch):
    right = pattern_scores.pattern_sums

    def counted(patterns, tokens, *, special=None, **options):
        # One visible token more in front, never attended to, makes position 0 an ordinary one.
        longer = torch.nn.functional.pad(patterns, (1, 0, 1, 0))
        return right(longer, torch.nn.functional.pad(tokens, (1, 0), value=-1), **options)

    monkeypatch.setattr(pattern_scores, "pattern_sums", counted)
    assert ("first_token", "previous_token") in wrong_about_perfect_heads()
    assert ("first_token", "previous_token") in wrong_about_perfect_heads(bos=True)


def test_rule_of_plain_maximum_likelihood_for_position_is_caught(monkeypatch):
    def biased(sums):
        count = sums["position.count"].clamp_min(1)
        within = (sums["position.square"] - sums["position.sum"].square().sum(2) / count).sum(1)
        return 1 - within / sums["position.departure"].sum(1)

    monkeypatch.setattr(pattern_scores, "position_share", biased)
    assert distance_to_the_loop() > 1e-2


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.permutations(range(4)))
def test_scores_know_tokens_only_by_equality_and_lie_between_0_and_1(seed, names):
    patterns, tokens, real, special = random_case(seed, causal=True)
    scores, chance, _ = score_patterns(patterns, tokens, real=real, special=special)
    renamed = torch.tensor(names)[tokens] + 7
    again, _, _ = score_patterns(patterns, renamed, real=real, special=special)
    for name in MEASURES:
        assert torch.equal(scores[name].nan_to_num(-9), again[name].nan_to_num(-9)), name
        known = scores[name][~scores[name].isnan()]
        assert (known <= 1 + 1e-12).all(), name
        assert name == "positional" or (known >= 0).all(), name
        assert math.isnan(chance[name]) or 0 <= chance[name] < 1, name


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.integers(1, 2))
def test_sums_of_parts_add_up_and_the_order_of_sequences_is_free(seed, cut):
    patterns, tokens, real, special = random_case(seed, causal=True)
    whole = score_patterns(patterns, tokens, real=real, special=special)[0]
    parts = [
        pattern_scores.pattern_sums(patterns[rows], tokens[rows], real=real[rows], special=special[rows])
        for rows in ([2, 1, 0][:cut], [2, 1, 0][cut:])
    ]
    summed = pattern_scores.finished({name: parts[0][name] + parts[1][name] for name in parts[0]})[0]
    for name in MEASURES:
        torch.testing.assert_close(summed[name], whole[name], equal_nan=True, rtol=1e-9, atol=1e-12)


def test_padding_on_the_left_and_wrong_shapes_are_refused():
    patterns, tokens, real, _ = random_case(0, causal=True)
    with pytest.raises(errors.ShapeError, match="padding on the right"):
        score_patterns(patterns, tokens, real=real.flip(1))
    with pytest.raises(errors.ShapeError, match="expected"):
        score_patterns(patterns[:, :, :-1], tokens)
    with pytest.raises(errors.ShapeError, match="expected"):
        score_patterns(patterns[0], tokens)
    with pytest.raises(errors.ShapeError, match="special"):
        score_patterns(patterns, tokens, special=real[:, 1:])


def test_without_a_target_or_a_second_sequence_a_score_is_nan():
    scores, chance, _ = score_patterns(even(6, batch=1), torch.arange(6)[None])
    assert scores["induction"].isnan().all()
    assert math.isnan(chance["induction"])
    assert scores["positional"].isnan().all()
    assert not scores["previous_token"].isnan().any()
