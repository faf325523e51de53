"""Are two runs the same? What differs in their making, how far apart their results are, and whether that is within promise.

Results are compared as they are, with each other; nothing is computed again. Which tier of :mod:`qkov.tiers` is to be
expected follows from what differs, and is checked for every kind of result that both runs have.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import head_moves, heatmap, result_agreement, run_differences, run_folder, tiers
from .errors import OptionError, RunsDifferError
from .result_agreement import Agreement
from .run_differences import ANOTHER, PREDICTION, SCORES, TESTS

__all__ = ["Comparison", "compare_runs"]

VERDICTS = {
    "same": "the same, bit for bit",
    "within": "the same within what is promised",
    "no promise": "nothing is promised of such a difference; what was measured is above",
    "broken": "NOT the same: results differ more than what is different in their making allows",
    "not comparable": "not comparable: the runs answer different questions",
}


@dataclass(frozen=True)
class Compared:
    """One kind of result that both runs have: what was measured, and the tier to be expected, or "another question"."""

    agreement: Agreement
    expected: str

    @property
    def kept(self) -> bool:
        """Whether the promise holds; never for another question."""
        return self.expected != ANOTHER and tiers.keeps(self.agreement.tightest, self.expected)


@dataclass(frozen=True)
class Comparison:
    """Two runs beside each other.

    Attributes:
        one, two: What was compared.
        differences: Fields in which their making differs.
        results: What was compared, see :class:`Compared`.
        not_compared: What only one of them has, or what is not compared, and why.
        moves: Where the model or the question differs: how alike the maps of heads are, block by block.
    """

    one: str
    two: str
    differences: tuple[run_differences.Difference, ...]
    results: tuple[Compared, ...]
    not_compared: tuple[tuple[str, str], ...]
    moves: tuple[head_moves.HeadMoves, ...]

    @property
    def verdict(self) -> str:
        """Name the worst of all results: "same", "within", "no promise", "broken" or "not comparable"."""
        if not self.results or any(one.expected == ANOTHER for one in self.results):
            return "not comparable"
        if not all(one.kept for one in self.results):
            return "broken"
        if all(one.agreement.tightest == "D1" for one in self.results):
            return "same"
        return "no promise" if any(one.expected == "D4" for one in self.results) else "within"

    @property
    def expected(self) -> str | None:
        """The loosest tier to be expected of a result; None where the runs answer different questions."""
        found = [one.expected for one in self.results]
        return None if ANOTHER in found or not found else tiers.looser(*found)

    @property
    def tightest(self) -> str | None:
        """The tightest tier whose promise all results keep, or None."""
        found = [one.agreement.tightest for one in self.results]
        return None if None in found or not found else tiers.looser(*found)

    @property
    def kept(self) -> bool:
        """Whether the runs are the same measurement within what is to be expected of it."""
        return self.verdict in ("same", "within", "no promise")

    def require_kept(self) -> None:
        """Raise where the runs are not the same measurement, or differ more than they may.

        Raises:
            RunsDifferError: With what differs.
        """
        if self.verdict == "not comparable":
            named = "; ".join(str(one) for one in self.differences if one.effect == ANOTHER) or "no result is in both"
            raise RunsDifferError(f"The runs answer different questions: {named}.")
        broken = [one for one in self.results if not one.kept]
        if broken:
            said = "; ".join(
                f"{one.agreement.what}: {', '.join(one.agreement.found)}, where {one.expected} promises "
                f"{tiers.PROMISES[one.expected]}"
                for one in broken
            )
            raise RunsDifferError(
                f"The runs differ more than they may. {said}. Compare what is listed as different; if nothing else is, "
                "measure again."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "one": self.one,
            "two": self.two,
            "verdict": self.verdict,
            "expected": self.expected,
            "tightest": self.tightest,
            "differences": [asdict(one) for one in self.differences],
            "results": [{**asdict(one.agreement), "expected": one.expected, "kept": one.kept} for one in self.results],
            "not_compared": [{"what": what, "reason": reason} for what, reason in self.not_compared],
            "moves": [asdict(one) for one in self.moves],
        }

    def __str__(self) -> str:
        lines = [f"{self.one} | {self.two}", ""]
        lines += ["different in their making:", *(f"  {one}" for one in self.differences)] if self.differences else [
            "nothing is different in their making"
        ]  # fmt: skip
        lines += ["", "results:", *(line for one in self.results for line in _result_lines(one))]
        lines += [f"  not compared: {what} ({reason})" for what, reason in self.not_compared]
        if self.moves:
            lines += ["", "maps of heads, averaged over all pairs of samples:", *_move_lines(self.moves)]
        return "\n".join([*lines, "", f"{VERDICTS[self.verdict]}{self._tiers_said()}"])

    def _tiers_said(self):
        if self.verdict == "not comparable":
            return ""
        held = f"{self.tightest} holds" if self.tightest else "no tier holds"
        return f" ({held}; {self.expected} was to be expected)"


def compare_runs(a: Path | str, b: Path | str, *, expect: str | None = None) -> Comparison:
    """Compare two runs, or two files of scores.

    Args:
        a, b: Folders that "qkov run" made, or files that :meth:`qkov.Heatmap.save` wrote.
        expect: Tier to be expected instead of what follows from the differences: "D1", "D2", "D3" or "D4".

    Returns:
        :class:`Comparison`.

    Raises:
        OptionError: If one is a folder and the other a file, or the tier is not known.
        RunFolderError, ResultFileError: If one is no run or result, or was edited.
    """
    if expect is not None and (expect == "D0" or expect not in tiers.PROMISES):
        raise OptionError(f"expect={expect!r}; expected D1, D2, D3 or D4.")
    a, b = Path(a), Path(b)
    if a.is_dir() != b.is_dir():
        raise OptionError(f"{str(a)!r} and {str(b)!r}: expected two run folders, or two files of scores.")
    return _of_runs(a, b, expect) if a.is_dir() else _of_heatmaps(a, b, expect)


def _of_heatmaps(a, b, expect):
    one, two = heatmap.load_heatmap(a), heatmap.load_heatmap(b)
    differences = run_differences.heatmap_differences(one.attributes, two.attributes)
    agreement = result_agreement.compare_heatmaps(one, two)
    # A file does not say on which machine and with how many threads it was made.
    expected = _expected(differences, SCORES, expect, least="D3")
    not_compared = (
        ("threads and machine", "a file of scores does not name them, so that no more than D3 is expected"),
    )
    moves = head_moves.head_moves(one, two, "scores") if expected == ANOTHER else ()
    return Comparison(str(a), str(b), differences, (Compared(agreement, expected),), not_compared, moves)


def _of_runs(a, b, expect):
    one, two = run_folder.open_run(a), run_folder.open_run(b)
    differences = _run_differences(one, two)
    results, moves, left = [], [], []
    for variant in (one for one in one.variants if one in two.variants):
        maps = one.scores(variant), two.scores(variant)
        compared = Compared(
            result_agreement.compare_heatmaps(*maps, f"scores {variant}"), _expected(differences, SCORES, expect)
        )
        results.append(compared)
        if compared.expected == ANOTHER:
            moves += head_moves.head_moves(*maps, variant)
    left += _missing("scores", set(one.variants), set(two.variants))
    same_scores = bool(results) and all(one.agreement.tightest == "D1" for one in results)
    for what, touches, compare in (
        (
            "statistics",
            TESTS,
            lambda *found: result_agreement.compare_statistics(*found, alpha=one.config.statistics.alpha),
        ),
        ("prediction", PREDICTION, result_agreement.compare_predictions),
    ):
        pair = getattr(one, what)(), getattr(two, what)()
        if None not in pair:
            expected = _expected(differences, touches, expect)
            if touches == TESTS and same_scores and not _relabelled(differences) and expected in ("D2", "D3"):
                expected = "D0"  # from the same scores decisions are the same on any machine
            results.append(Compared(compare(*pair), expected))
        elif pair != (None, None):
            left.append((what, f"only {str((a, b)[pair[0] is None])!r} has it"))
    for what in ("top_pairs", "head_types"):
        left += _by_bytes(one, two, what)
    return Comparison(str(a), str(b), differences, tuple(results), tuple(left), tuple(moves))


def _run_differences(one, two):
    settings = run_differences.config_differences(one.config.to_dict(), two.config.to_dict())
    compared = one.config.source, one.config.target
    found = run_differences.record_differences(
        one.record, two.record, compared=compared, reference=one.config.reference
    )
    named = {difference.name for difference in settings}
    other_dtype = "model.dtype" in named
    return settings + tuple(
        difference
        for difference in found
        if difference.name not in named and not (other_dtype and difference.name.endswith("fingerprint"))
    )


def _relabelled(differences):
    return any(one.name in ("seed", "statistics.n_permutations") for one in differences)


def _expected(differences, touches, expect, least="D1"):
    found = run_differences.expected_tier(differences, touches)
    if found == ANOTHER:
        return found
    return tiers.looser(found, least) if expect is None else expect


def _missing(what, first, second):
    return [(f"{what} {name}", "only one of the runs has it") for name in sorted(first ^ second)]


def _by_bytes(one, two, what):
    """Results that follow from others are only said to be the same bytes, or not."""
    name = run_folder.RESULTS[what]
    pair = [found.record["results"].get(name, {}).get("sha256") for found in (one, two)]
    if pair[0] == pair[1]:
        return []
    reason = "only one of the runs has it" if None in pair else "the files differ; what they rest on is compared above"
    return [(what, reason)]


def _result_lines(one):
    agreement = one.agreement
    held = f"{agreement.tightest}" if agreement.tightest else "none"
    expected = "different questions" if one.expected == ANOTHER else f"{one.expected} to be expected"
    number = f", {agreement.facts['compared']:,} numbers" if agreement.facts else ""
    state = "  " if one.kept else "! "
    yield f"{state}{agreement.what}: tightest tier {held}, {expected}{number}"
    for sentence in agreement.found:
        yield f"      {sentence}"


def _move_lines(moves):
    for one in moves:
        shown = "" if one.correlation is None else f"correlation {one.correlation:.3f}, "
        yield f"  {one.what}, {one.block}: {shown}rank correlation {one.rank_correlation:.3f}"
        for row in one.moves:
            kind = "kv head" if one.block in "KV" else "head"
            yield (
                f"      layer {row['layer']}, {kind} {row['unit']}: {row['first']:.3g} -> {row['second']:.3g}, rank "
                f"{row['rank_first']} -> {row['rank_second']}"
            )
