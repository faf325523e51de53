"""The calibration sees a broken test."""

import dataclasses
import json

import numpy as np
import pytest

from qkov import statistics
from validation import calibration, statistics_evidence
from validation import calibration_cells as cells
from validation import invalid_procedures as invalid

KEYS = {"study", "procedure", "data", "sets", "value", "low", "high", "bound", "direction", "status"}


def judged(name, sets, permutations=499):
    """Rows of a cell from a few data sets, by study and procedure."""
    rows = calibration.judge(cells.CELLS[name], calibration.measure_chunk(name, 0, sets, permutations))
    return {(row["study"], row["procedure"]): row for row in rows}


def of_p(p):
    """What stands in for a test: every slice has this p value."""

    class Result:
        def __init__(self, num_slices):
            self.p = self.p_maxt = self.q_bh = np.full(num_slices, p)
            self.statistic, self.null = np.zeros(num_slices), np.zeros((3, num_slices))
            self.alternative, self.null_statement = "greater", ""

    return lambda g_a, *rest, **options: Result(g_a.shape[1])


def test_ours_keep_their_bands_on_a_few_data_sets():
    rows = judged("null light", 8)
    assert {row["status"] for row in rows.values()} == {"passed"}
    assert all(set(row) == KEYS for row in rows.values())


def test_frozen_fisher_in_our_place_fails_the_type_I_band(monkeypatch):
    class Result:
        def __init__(self, p):
            self.p = self.p_maxt = self.q_bh = p
            self.statistic, self.null = np.zeros(len(p)), np.zeros((3, len(p)))
            self.alternative, self.null_statement = "greater", ""

    def frozen(g_a, g_r, g_b, *, clusters_a, clusters_r, n_permutations, seed):
        return Result(invalid.frozen_fisher(g_a, g_r, g_b, n_permutations=n_permutations, seed=seed))

    monkeypatch.setattr(statistics, "test_source", frozen)
    assert judged("null heavy", 5)["type I", "test_source"]["status"] == "failed"


def test_ignoring_clusters_in_our_place_fails_the_type_I_band(monkeypatch):
    whole = statistics.test_exchange
    monkeypatch.setattr(
        statistics,
        "test_exchange",
        lambda g_a, g_b, **o: whole(g_a, g_b, **o | {"clusters_a": "iid", "clusters_b": "iid"}),
    )
    assert judged("null clustered", 4)["type I", "test_exchange"]["status"] == "failed"


def test_a_test_that_never_rejects_fails_its_power(monkeypatch):
    monkeypatch.setattr(statistics, "test_source", of_p(1.0))
    monkeypatch.setattr(statistics, "test_exchange", of_p(1.0))
    rows = judged("partial light", cells.CELLS["partial light"].sets["short"])
    assert rows["FDR", "test_source, BH"]["status"] == "passed"
    assert {row["status"] for (study, _), row in rows.items() if study == "power"} == {"failed"}


def test_a_test_that_always_rejects_fails_its_bands(monkeypatch):
    monkeypatch.setattr(statistics, "test_source", of_p(0.001))
    rows = judged("partial light", 12)
    assert rows["FDR", "test_source, BH"]["status"] == "failed"
    assert {row["status"] for (study, name), row in rows.items() if study == "decoys" and "source" in name} == {
        "failed"
    }


def test_intervals_a_quarter_as_wide_fail_their_coverage(monkeypatch):
    whole = statistics.confidence_interval

    def narrow(*grads, **options):
        one = whole(*grads, **options)
        middle, half = (one.high + one.low) / 2, (one.high - one.low) / 8
        return dataclasses.replace(one, low=middle - half, high=middle + half)

    monkeypatch.setattr(statistics, "confidence_interval", narrow)
    rows = judged("coverage light", 8)
    assert rows["coverage", "mean, jackknife"]["status"] == "failed"
    assert rows["coverage", "lift, jackknife (approximate)"]["status"] == "failed"
    assert rows["coverage", "head_contrast"]["status"] == "passed"


def test_an_invalid_procedure_that_behaves_fails_its_row(monkeypatch):
    monkeypatch.setattr(invalid, "pairs_welch", lambda g_a, g_r, g_b: np.ones(g_a.shape[1]))
    rows = judged("invalid light", 3)
    assert rows["invalid", invalid.PAIRS_WELCH]["status"] == "failed"
    assert rows["invalid", invalid.PAIRS_Z]["status"] == "passed"
    assert rows["invalid", invalid.PAIRS_Z]["why"] == invalid.WHY[invalid.PAIRS_Z]
    assert rows["invalid", invalid.PAIRS_Z]["ours"] < 0.3


def test_bounds_move_by_the_binomial_error_of_fewer_data_sets():
    assert calibration.widened(0.074, "at most", 1000) == 0.074
    error = np.sqrt(0.074 * 0.926)
    moved = 3 * error * (1 / np.sqrt(100) - 1 / np.sqrt(1000))
    assert calibration.widened(0.074, "at most", 100) == pytest.approx(0.074 + moved)
    assert calibration.widened(0.45, "at least", 250) < 0.45
    assert calibration.widened(0.2, "must exceed", 10) == 0.2
    assert calibration.widened(None, "shown", 10) is None


def test_no_bound_of_the_short_run_is_empty():
    """A lower bound at or below 0 could not fail, and neither could an upper one near 1."""
    for cell in cells.CELLS.values():
        for band in cell.bands:
            bound = calibration.widened(band.bound, band.direction, cell.sets["short"])
            if bound is not None:
                assert 0 < bound < 0.99, (cell.data, band)
            if band.direction == "at most":
                assert bound < 0.3, (cell.data, band)


@pytest.mark.parametrize(
    ("value", "bound", "direction", "expected"),
    [
        (0.05, 0.05, "at most", True),
        (0.051, 0.05, "at most", False),
        (0.45, 0.45, "at least", True),
        (0.44, 0.45, "at least", False),
        (0.2, 0.2, "must exceed", False),
        (0.9, None, "shown", True),
        (np.nan, 0.5, "at most", False),
        (np.nan, None, "shown", False),
    ],
)
def test_what_keeps_a_bound(value, bound, direction, expected):
    assert calibration.holds(value, bound, direction) is expected


def test_intervals_of_rows_are_wilsons_and_the_normal_ones():
    from statsmodels.stats.proportion import proportion_confint

    events = np.array([1.0] * 3 + [0.0] * 37)
    np.testing.assert_allclose(calibration.interval(events), proportion_confint(3, 40, method="wilson"), rtol=1e-4)
    shares = np.array([0.0, 0.25, 0.5, 0.125])
    half = 1.96 * shares.std(ddof=1) / 2
    np.testing.assert_allclose(calibration.interval(shares), [max(0, shares.mean() - half), shares.mean() + half])


def test_processes_measure_what_one_process_does(monkeypatch):
    """Data sets follow from their numbers, so chunks and processes cannot matter."""
    name = "partial clustered"
    few = {name: dataclasses.replace(cells.CELLS[name], sets={"short": 3})}
    monkeypatch.setattr(cells, "CELLS", few)
    monkeypatch.setattr(calibration, "CHUNK", 2)
    assert calibration.rows(False, 1, progress=False) == list(judged(name, 3).values())


ROW = {"study": "type I", "procedure": "p", "data": "light", "sets": 3, "value": 0.05, "low": 0.04, "high": 0.06,
       "bound": 0.074, "direction": "at most", "status": "passed"}  # fmt: skip


class AtOnce:
    """In place of a pool of processes, so that what is patched here is seen."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def submit(self, function, *arguments):
        result = function(*arguments)
        return type("Done", (), {"result": staticmethod(lambda: result)})


def test_the_long_run_writes_what_all_studies_measured(tmp_path, monkeypatch, capsys):
    found = [ROW | {"study": name} for name in ("calibration", "real null", "SNR")]
    monkeypatch.setattr(statistics_evidence.suite, "process_pool", lambda jobs: AtOnce())
    monkeypatch.setattr(
        calibration, "rows", lambda long, jobs: [found[0] | {"sets": 1000 if long else 3, "jobs": jobs}]
    )
    monkeypatch.setattr(statistics_evidence.real_gradients, "rows", lambda long: [found[1]])
    monkeypatch.setattr(statistics_evidence.snr, "rows", lambda long: [found[2]])
    monkeypatch.setattr(
        statistics_evidence,
        "EVIDENCE",
        dataclasses.replace(statistics_evidence.EVIDENCE, path=tmp_path / "evidence" / "long.json"),
    )
    assert statistics_evidence.main(["--jobs", "1"]) == 0
    assert "passed: real null of p on light" in capsys.readouterr().out
    document = json.loads((tmp_path / "evidence" / "long.json").read_text())
    assert document["rows"] == [found[0] | {"sets": 1000, "jobs": 1}, found[1], found[2]]
    assert document["sources"] == statistics_evidence.EVIDENCE.source_hashes()
    assert {"qkov/statistics/source.py", "validation/snr.py"} <= set(document["sources"])
    assert statistics_evidence.measure(False, jobs=2)[0]["sets"] == 3
