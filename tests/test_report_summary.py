"""The words of a report never claim more than the statistics allow, in every situation that they can be in."""

import dataclasses
import re

import pytest

from qkov.report import summary
from qkov.report.data import gather
from tests.heatmaps import make_heatmap
from tests.report_cases import empty_heatmap, make_prediction, make_statistics

POOLED = {"pool": "pooled"}
# Words of effect or certainty. They may stand only in a sentence that denies them, word for word one of these.
STRONG = re.compile(
    r"\b(interfer\w*|harm\w*|hurt\w*|significan\w*|prove[sn]?|proof|caus\w+|conflict\w*|damage\w*|always|certain)\b",
    re.I,
)
DENIALS = (
    "nor that B does A harm: to coincide has no sign",
    "and not that one interferes with the other",
    "not that one interferes with the other, which needs a reference task",
    "That is no proof of absence",
    "How certain that is, is not known",
)
MOVES = r"\b(raise|lower|rise|fall)s?\b"
TESTED = r"p ≤|survive|tested slices|\bdiffer\b|coincide with"
POSITIVE = r"\bIn \d+ of \d+"


@dataclasses.dataclass(frozen=True)
class Situation:
    """What there is to speak of, what must be said of it, and what must not."""

    build: object
    must: tuple
    never: tuple = ()


def _tested(fields=None, prediction=None, **options):
    def build():
        heatmap = make_heatmap(**(POOLED if fields is None else fields))
        found = None if prediction is None else make_prediction(heatmap, **prediction)
        return gather(heatmap, statistics=make_statistics(heatmap, **options), prediction=found)

    return build


def _untested(prediction=None, **fields):
    def build():
        heatmap = make_heatmap(**(POOLED | fields))
        return gather(heatmap, prediction=None if prediction is None else make_prediction(heatmap, **prediction))

    return build


CAVEAT = "the average carries no information on task A"
MEASURED = "Nothing was measured"
SITUATIONS = {
    "nothing tested": Situation(
        build=_untested(),
        must=("Nothing was tested", "no head is singled out"),
        never=(TESTED, POSITIVE, MOVES),
    ),
    "nothing tested, pool A": Situation(_untested(pool="A"), ("Nothing was tested", CAVEAT), (POSITIVE,)),
    "empty": Situation(
        build=lambda: gather(empty_heatmap()),
        must=(MEASURED, "task B (“prose”)"),
        never=(TESTED, "average", POSITIVE),
    ),
    "empty A": Situation(lambda: gather(make_heatmap(num_a=0)), (MEASURED, "task A (“code”)"), (TESTED, "average")),
    "source survives": Situation(
        build=_tested(strong=3, weak=5),
        must=(
            "In 3 of 24 tested slices (family-wise p ≤ 0.05)",
            "more than those of R do",
            "R is “chat”",
            "to coincide has no sign",
            "the list has 8 slices",
        ),
        never=("differ", "no reference"),
    ),
    "source, only q": Situation(
        build=_tested(strong=0, weak=4),
        must=("No slice survives", "no proof of absence", "the list has 4 slices"),
        never=(POSITIVE,),
    ),
    "source, none": Situation(
        build=_tested(strong=0, weak=0),
        must=("in none of 24 tested slices", "no proof of absence"),
        never=(POSITIVE, "the list has", "often missed"),
    ),
    "source, none, few clusters": Situation(
        build=_tested(strong=0, weak=0, clusters=6),
        must=("no proof of absence", "6 independent clusters", "often missed"),
        never=(POSITIVE,),
    ),
    "source, none can": Situation(
        build=_tested(strong=0, weak=0, clusters=6, min_p=0.1),
        must=("no slice could have survived",),
        never=(POSITIVE,),
    ),
    "source, some untested": Situation(
        build=_tested(strong=2, weak=0, untested=5),
        must=("In 2 of 19 tested slices",),
        never=("of 24",),
    ),
    "nothing testable": Situation(
        build=_tested(untested=24),
        must=("Nothing could be tested",),
        never=(POSITIVE, "survive", "coincide with"),
    ),
    "exchange survives": Situation(
        build=_tested(main="exchange", strong=7, weak=0),
        must=("In 7 of 24 tested slices", "the tasks differ here", "nothing more than a difference between the tasks"),
        never=("coincide", r"\bR is\b"),
    ),
    "exchange, none": Situation(
        build=_tested(main="exchange", strong=0, weak=0),
        must=("No slice survives", "no proof of absence"),
        never=(POSITIVE, "coincide", "the same"),
    ),
    "pool A, source survives": Situation(_tested(fields={"pool": "A"}), (CAVEAT, "In 3 of 24")),
    "raised": Situation(
        build=_untested(prediction={"shift": 3.0}),
        must=("Predicted from gradients, not measured", "expected to raise"),
        never=(POSITIVE, "lower"),
    ),
    "lowered": Situation(
        build=_untested(prediction={"shift": -3.0}),
        must=("not measured", "expected to lower"),
        never=(POSITIVE, "raise"),
    ),
    "unsettled": Situation(_untested(prediction={"shift": 0.0}), ("not settled",), (MOVES,)),
    "no interval": Situation(
        build=_untested(prediction={"shift": 3.0, "clusters": False}),
        must=("is not known: samples have no clusters",),
        never=(MOVES, "interval"),
    ),
}


def problems(situation, words):
    """What a summary says that it must not, and does not say that it must."""
    text = " ".join(words.quotable)
    found = [f"lacks {one!r}" for one in situation.must if one not in text]
    found += [f"says {one!r}" for one in situation.never if re.search(one, text)]
    for denial in DENIALS:
        text = text.replace(denial, "")
    return found + [f"says {one.group()!r}" for one in STRONG.finditer(text)]


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_summary_claims_what_the_statistics_allow(name):
    situation = SITUATIONS[name]
    words = summary.summarise(situation.build())
    assert problems(situation, words) == []
    assert words.quotable[0].startswith("A is “code”, B is “prose”")


SURVIVORS, TESTS, PREDICTION = summary._survivors, summary._tests, summary._prediction


def _by_q(data, tested, strong):
    return SURVIVORS(data, tested, int(data.statistics.survives(data.alpha, "q").sum()))


def _no_difference(data, tested, strong):
    yield f"No slice survives: in none of {tested} tested slices the tasks differ (family-wise p ≤ {data.alpha})."


def _moved(data):
    for sentence in PREDICTION(data):
        yield sentence
        yield "So the step raises A's loss."


# A piece of the summary, and a wrong one that differs as little as such a mistake would.
OVERCLAIMS = {
    "no limits without a reference": ("LIMITS", summary.LIMITS | {"exchange": "B changes what A needs there."}),
    "no limits with one": ("LIMITS", summary.LIMITS | {"source": "Nothing is claimed of other slices."}),
    "absence from nothing found": ("_no_survivor", _no_difference),
    "q counted as family-wise": ("_survivors", _by_q),
    "heads singled out untested": ("_tests", lambda data: (*TESTS(data), "Head 3 survives best.")),
    "a sign that is not settled": ("_prediction", _moved),
    "averages of nothing": ("_nothing", lambda data: ()),
    "no caveat": ("_cautions", lambda data: []),
    "a strong word": ("_tests", lambda data: (*TESTS(data), "These heads interfere.")),
}


@pytest.mark.parametrize("name", OVERCLAIMS)
def test_an_overclaim_is_noticed(name, monkeypatch):
    """Each wrong summary is caught in some situation by the very check that the right one passes in all."""
    attribute, wrong = OVERCLAIMS[name]
    data = {known: one.build() for known, one in SITUATIONS.items()}
    monkeypatch.setattr(summary, attribute, wrong)
    caught = [known for known, one in SITUATIONS.items() if problems(one, summary.summarise(data[known]))]
    assert caught


def test_numbers_of_the_summary_are_those_of_the_statistics():
    for strong in (0, 1, 5, 24):
        heatmap = make_heatmap(**POOLED)
        statistics = make_statistics(heatmap, strong=strong, weak=0)
        text = " ".join(summary.summarise(gather(heatmap, statistics=statistics)).quotable)
        found = re.search(r"In (\d+) of (\d+) tested", text)
        number = int(statistics.survives().sum())
        assert (found is None and number == 0) or tuple(map(int, found.groups())) == (number, 24)


def test_the_level_is_the_one_that_was_asked_for():
    heatmap = make_heatmap(**POOLED)
    data = gather(heatmap, statistics=make_statistics(heatmap, strong=3), alpha=0.01)
    text = " ".join(summary.summarise(data).quotable)
    assert "No slice survives" in text  # their family-wise p is 0.0123
    assert "p ≤ 0.01" in text


def test_a_caveat_names_its_variants_where_there_are_several():
    one = gather([make_heatmap(), make_heatmap(variant="signed")])
    assert [text.partition(":")[0] for text in summary.summarise(one).cautions] == ["Variant unsigned"]
    assert summary.summarise(gather(make_heatmap(variant="signed"))).cautions == ()


def test_names_are_quoted_and_made_visible():
    words = summary.summarise(gather(make_heatmap(task_a="\u202eevil\x1b[2J", **POOLED)))
    assert "“\\u202eevil\\x1b[2J”" in words.quotable[0]
    assert all(text.isprintable() for text in (*words.question, *words.quotable))
