"""The words and degrees of each variant agree with what its formula does."""

import json

import numpy as np
import pytest

from qkov import errors, meaning

POOLS = ("A", "B", "pooled")


def closed_form(variant, pool, grads_a, grads_b):
    """Scores of single parameters without damping, ``[n_a, n_b]``."""
    fisher_a, fisher_b = (grads_a**2).mean(), (grads_b**2).mean()
    fisher = {"A": fisher_a, "B": fisher_b, "pooled": (fisher_a + fisher_b) / 2}[pool]
    first, second = grads_a[:, None], grads_b[None]
    return {
        "unsigned": first**2 / fisher * np.abs(second),
        "natural": first**2 / fisher_a * np.abs(second) / np.sqrt(fisher_b),
        "signed": first * second / fisher,
        "symmetric": np.abs(first * second) / fisher,
        "dot": first * second,
        # One parameter: the whole matrix is its diagonal, and both factors of KFAC together are it too.
        "full": first * second / fisher,
        "kfac": first * second / fisher,
    }[variant]


@pytest.mark.parametrize("variant", meaning.VARIANT_MEANING)
@pytest.mark.parametrize("pool", POOLS)
def test_words_and_degrees_agree_with_the_formula(variant, pool):
    facts = meaning.describe_scores(variant, pool)
    grads_a, grads_b = np.array([1.0, -2.0, 0.5]), np.array([3.0, -1.0])
    scores = closed_form(variant, pool, grads_a, grads_b)
    for side, factors in {"a": (2, 1), "b": (1, 2), "both": (2, 2)}.items():
        ratio = closed_form(variant, pool, factors[0] * grads_a, factors[1] * grads_b) / scores
        degree = facts["loss_scale_degrees"][side]
        if degree is None:
            assert not np.isclose(ratio, 2.0 ** np.arange(-2, 4)[:, None, None]).all((1, 2)).any()
        else:
            np.testing.assert_allclose(ratio, 2.0**degree, rtol=1e-14)
    assert (scores < 0).any() == facts["range"].startswith("(-inf")
    assert facts["conflict_order"] == ("ascending" if (scores < 0).any() else "descending")
    # The average says nothing on A exactly where exchanging A for another task leaves it as it was.
    other = closed_form(variant, pool, np.array([5.0, 1.0]), grads_b)
    assert bool(facts["average_caveat"]) == np.allclose(scores.mean(0), other.mean(0))
    json.dumps(facts)


def test_unit_says_aggregate_and_tokens():
    facts = meaning.describe_scores("unsigned", "A", aggregate="sum", normalize_gj="per_token")
    assert facts["unit"] == "loss per unit of parameter (B's gradient), per token, sum over the slice"
    assert "token" not in meaning.describe_scores("signed", "A", normalize_gj="per_token")["unit"]


@pytest.mark.parametrize(
    ("source", "words"), [("contributions", "score equals"), ("ema", "score is close to"), ("head", "")]
)
def test_caveat_depends_on_where_the_fisher_comes_from(source, words):
    caveat = meaning.describe_scores("unsigned", "A", fisher_source=source)["average_caveat"]
    assert words in caveat
    assert bool(caveat) == (source != "head")


def test_unknown_variant_and_pool_are_refused():
    with pytest.raises(errors.OptionError, match="'loud'"):
        meaning.describe_scores("loud", "A")
    with pytest.raises(errors.OptionError, match="'C'"):
        meaning.describe_scores("dot", "C")
