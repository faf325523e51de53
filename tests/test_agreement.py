"""What ranks do together: errors of one are errors of all, other things are refused, nothing is unpickled."""

import pytest

from qkov import agreement, errors
from validation import rank_threads


def on_ranks(size, work):
    return rank_threads.run(size, lambda ranks, link: work(ranks.together))


def test_values_come_back_in_the_order_of_ranks():
    found = on_ranks(3, lambda ranks: ranks.exchange("tell", {"rank": ranks.rank, "id": "x"}))
    assert found == [[{"rank": rank, "id": "x"} for rank in range(3)]] * 3


def test_what_rank_0_shares_is_the_same_everywhere():
    value = {"ids": [1, "1", 0.1], "none": None}
    assert on_ranks(3, lambda ranks: ranks.share("share", value if ranks.first else "other")) == [value] * 3


def test_other_calls_are_refused_and_named():
    for one in on_ranks(2, lambda ranks: ranks.exchange("seal" if ranks.first else "collect", None)):
        assert isinstance(one, errors.RanksDifferError)
        assert "rank 0: seal; rank 1: collect" in str(one)


def test_the_same_values_pass_and_others_name_the_rank():
    on = lambda ranks, value: ranks.require_same("compare", value, "a number", "Count again.")  # noqa: E731
    assert on_ranks(3, lambda ranks: on(ranks, [1, "x"])) == [None] * 3
    for one in on_ranks(3, lambda ranks: on(ranks, ranks.rank // 2)):
        assert str(one) == "a number of rank 2 is not that of rank 0. Count again."


def test_a_call_returns_what_it_returns_here():
    assert on_ranks(2, lambda ranks: ranks.together("call", lambda: {ranks.rank})) == [{0}, {1}]


def test_an_error_of_one_is_raised_on_all_in_its_class():
    def work(ranks):
        def call():
            if ranks.rank == 1:
                raise errors.UnknownTaskError("no task 'x'")

        ranks.together("call", call)

    found = on_ranks(3, work)
    assert [type(one) for one in found] == [errors.UnknownTaskError] * 3
    assert [str(one) for one in found] == ["rank 1: no task 'x'", "no task 'x'", "rank 1: no task 'x'"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_a_process_is_not_held_back(error):
    with pytest.raises(error), agreement.Held():
        raise error


def test_our_own_interrupt_is_held_back():
    with agreement.Held() as held:
        raise errors.CollectionInterrupted("interrupted")
    assert isinstance(held.error, errors.CollectionInterrupted)
    with agreement.Held(held.error) as later:
        pass
    assert later.error is held.error


@pytest.mark.parametrize("kind", ["ValueError", "BaseException", "escaping", "nonsense", "QKOVWarning", "__builtins__"])
def test_a_class_that_is_not_ours_is_named_and_not_made(kind):
    found = agreement.retold(3, {"kind": kind, "said": "why."})
    assert type(found) is errors.RankFailedError
    assert str(found) == f"rank 3 failed: {kind}: why."


def test_a_lost_rank_says_what_is_kept():
    def lost():
        with agreement.said_more(lambda: "9 samples are kept."):
            raise errors.RankFailedError("rank 1 is gone.")

    with pytest.raises(errors.RankFailedError, match=r"^rank 1 is gone\. 9 samples are kept\.$"):
        lost()
    with pytest.raises(errors.BatchError), agreement.said_more(lambda: pytest.fail("asked")):
        raise errors.BatchError("x")


def test_an_own_error_is_not_hidden_by_a_lost_rank():
    def work(ranks):
        if ranks.rank == 1:
            raise SystemExit
        ranks.together("call", lambda: 1 / 0)

    assert [type(one) for one in on_ranks(2, work)] == [ZeroDivisionError, SystemExit]
