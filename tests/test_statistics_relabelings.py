"""Relabelings: all where few exist, drawn from raw words where not, and the same for ever."""

import hashlib
import itertools

import numpy as np
import pytest

from qkov.errors import StatisticsError
from qkov.statistics import relabelings

# Of the seed 20250101, see test_words_of_a_relabeling_never_change.
WORDS = [[6688534191724286632, 17850321768223027924], [12049762747950573530, 13716643366565174257]]
DRAWN = "4f1290dada48d1a0ba62a7eb97aabb986188c91bcf3aeff7f7d4a4af052b0a10"
APART = "be03ee71965a8f88bf97f6f5caa06ba334add06a29b0b8f51782bba77d1340e6"


@pytest.mark.parametrize(("num_first", "num_second"), [(2, 2), (2, 3), (3, 3), (4, 2)])
def test_all_relabelings_are_listed_when_no_more_were_asked_for(num_first, num_second):
    total = num_first + num_second
    given = frozenset(range(num_first))
    expected = {frozenset(chosen) for chosen in itertools.combinations(range(total), num_first)} - {given}
    drawn = relabelings.draw(num_first, num_second, len(expected), 0)
    assert drawn.exhaustive
    assert drawn.num_distinct == len(expected) + 1
    found = [frozenset(np.flatnonzero(row).tolist()) for row in drawn.first]
    assert len(found) == len(expected)
    assert set(found) == expected


def test_one_fewer_than_all_are_drawn_at_random():
    drawn = relabelings.draw(3, 3, 18, 0)  # 20 exist, the given one included
    assert not drawn.exhaustive
    assert drawn.first.shape == (18, 6)
    assert drawn.num_distinct == 20


def test_relabelings_keep_the_numbers_of_clusters():
    drawn = relabelings.draw(5, 9, 300, 3)
    assert (drawn.first.sum(1) == 5).all()


def test_every_relabeling_is_as_likely():
    drawn = relabelings.draw_apart(2, 3, 20000, 1)
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 10
    assert (np.abs(counts - 2000) < 5 * np.sqrt(2000 * 0.9)).all()


def test_relabelings_drawn_apart_are_others():
    assert not np.array_equal(relabelings.draw(8, 8, 99, 5).first, relabelings.draw_apart(8, 8, 99, 5))


@pytest.mark.parametrize("seeds", [(0, 1), (7, 8), (2**63, 2**63 + 1), (0, 2**63)])
def test_seeds_give_different_relabelings(seeds):
    one, other = (relabelings.draw(8, 8, 99, seed).first for seed in seeds)
    assert not np.array_equal(one, other)
    np.testing.assert_array_equal(one, relabelings.draw(8, 8, 99, np.uint64(seeds[0])).first)


def philox(key, number):
    """Words of Philox 4x64 with ten rounds (Salmon et al. 2011), in Python's ints."""
    mask, words = 2**64 - 1, []
    for block in range(1, -(-number // 4) + 1):  # NumPy counts up before it draws
        counter, keys = [block, 0, 0, 0], list(key)
        for _ in range(10):
            one, other = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
            counter = [
                (other >> 64) ^ counter[1] ^ keys[0],
                other & mask,
                (one >> 64) ^ counter[3] ^ keys[1],
                one & mask,
            ]
            keys = [(keys[0] + 0x9E3779B97F4A7C15) & mask, (keys[1] + 0xBB67AE8584CAA73B) & mask]
        words += counter
    return words[:number]


@pytest.mark.parametrize("seed", [0, 7, 2**63, 2**63 + 1, 2**64 - 1])
@pytest.mark.parametrize("stream", [0, 1, 8])
def test_words_are_those_of_the_published_generator(seed, stream):
    assert relabelings.raw_words(3, 3, seed, stream).ravel().tolist() == philox((seed, stream), 9)


def test_words_of_a_relabeling_never_change():
    # A stored result names its seed: whoever runs it again, with any NumPy on any machine, must get these relabelings.
    words = relabelings.raw_words(2, 2, 20250101, 0)
    assert words.tolist() == WORDS
    drawn = relabelings.draw(12, 12, 499, 20250101).first
    assert hashlib.sha256(np.packbits(drawn).tobytes()).hexdigest() == DRAWN
    apart = relabelings.draw_apart(12, 12, 499, 20250101)
    assert hashlib.sha256(np.packbits(apart).tobytes()).hexdigest() == APART


@pytest.mark.parametrize("seed", [None, -1, True, 1.0, "1", np.nan])
def test_seed_must_be_chosen(seed):
    with pytest.raises(StatisticsError, match="expected a non-negative int, chosen before looking at the data"):
        relabelings.draw(3, 3, 99, seed)


@pytest.mark.parametrize("number", [0, -1, None, True, 9.0])
def test_number_must_be_positive(number):
    with pytest.raises(StatisticsError, match=r"n_permutations=.*; expected a positive int"):
        relabelings.draw(3, 3, number, 0)


def test_default_is_twice_what_a_rejection_needs():
    assert relabelings.default_number(24) == 9999
    assert relabelings.default_number(1000) == 40000
    assert relabelings.default_number(1000) + 1 >= 2 * 1000 / 0.05


def test_truths_are_truths_and_one_is_a_number():
    every, drawn = relabelings.draw(2, 2, 5, 0), relabelings.draw(8, 8, 1, 0)
    assert every.first.dtype == drawn.first.dtype == bool
    assert (every.exhaustive, drawn.exhaustive) == (True, False)
    assert drawn.first.shape == (1, 16)


def test_seeds_beyond_a_word_begin_again_and_never_reach_another_stream():
    for seed in (0, 5, 2**64 - 1):
        expected = np.random.Philox(key=(3 << 64) + seed).random_raw(6).reshape(2, 3)
        for turn in (0, 1, 2, 3):
            np.testing.assert_array_equal(relabelings.raw_words(2, 3, seed + turn * 2**64, 3), expected)
