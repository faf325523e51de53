"""Hypothesis strategies for layouts and gradients: every geometry, and numbers at the edges of float64.

A drawn geometry comes with a model of its own (:class:`validation.synthetic.SyntheticLM`), so that properties can be
tried on real modules as well as on plain numbers.
"""

import torch
from hypothesis import strategies as st

from .synthetic import SyntheticConfig

PACKINGS = ("split", "concatenated", "interleaved")


@st.composite
def configs(draw, *, most_heads=6, most_width=5):
    """Draw a :class:`SyntheticConfig`: any packing and orientation, MHA, GQA or MQA, d_k and d_v apart or equal."""
    num_kv_heads = draw(st.integers(1, 3))
    group = draw(st.integers(1, max(1, most_heads // num_kv_heads)))
    orientation = draw(st.sampled_from(("linear", "conv1d")))
    head_dim = draw(st.integers(1, most_width))
    return SyntheticConfig(
        packing=draw(st.sampled_from(PACKINGS)),
        orientation=orientation,
        num_heads=num_kv_heads * group,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        v_head_dim=draw(st.integers(1, most_width)),
        hidden_size=draw(st.integers(2, 12)),
        bias=orientation == "conv1d" or draw(st.booleans()),
        rotary=head_dim % 2 == 0 and draw(st.booleans()),
        num_layers=draw(st.integers(1, 2)),
    )


def lengths(*, most_samples=4, longest=8):
    """Draw the numbers of tokens of a batch's samples, each at least 2, so that one token is predicted."""
    return st.lists(st.integers(2, longest), min_size=1, max_size=most_samples)


def gradient_values(*, largest_exponent=60):
    """Draw one number of a gradient: signs, exact zeros, and magnitudes from 1e-60 to 1e60.

    Squares of these are finite and normal in float64, which is what the formulas promise to handle.
    """
    magnitudes = st.builds(
        lambda mantissa, exponent, sign: sign * mantissa * 10.0**exponent,
        st.floats(1.0, 9.99),
        st.integers(-largest_exponent, largest_exponent),
        st.sampled_from((-1.0, 1.0)),
    )
    return st.one_of(st.just(0.0), magnitudes, st.sampled_from((-1.0, 1.0, 1e-16)))


@st.composite
def gradients(draw, *, num_samples=None, size=None, values=None):
    """Draw per-sample gradients of a slice, float64 ``[num_samples, size]``.

    Args:
        num_samples, size: Given, or drawn from 1 to 5 and 1 to 8.
        values: Strategy for one number; by default :func:`gradient_values`.
    """
    num_samples = draw(st.integers(1, 5)) if num_samples is None else num_samples
    size = draw(st.integers(1, 8)) if size is None else size
    values = gradient_values() if values is None else values
    rows = st.lists(st.lists(values, min_size=size, max_size=size), min_size=num_samples, max_size=num_samples)
    return torch.tensor(draw(rows), dtype=torch.float64).reshape(num_samples, size)


@st.composite
def gradient_pairs(draw, **options):
    """Draw gradients of two tasks on one slice, ``([n_a, size], [n_b, size])``."""
    size = draw(st.integers(1, 8))
    return draw(gradients(size=size, **options)), draw(gradients(size=size, **options))
