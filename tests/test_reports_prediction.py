"""Tables and pictures of the predictions say what the committed rows say, and warn where these are stale."""

import numpy as np
import pytest

from reports import prediction_pictures, prediction_tables


def row(study, procedure, data, value, **changes):
    given = {"study": f"prediction: {study}", "procedure": procedure, "data": data, "sets": 5, "value": value,
             "low": value - 0.1, "high": value + 0.1, "bound": None, "direction": "shown", "status": "passed"}  # fmt: skip
    return given | changes


STEP = "mixed, llama, sgd, size 0.03"
PAIRED = "conflict, llama, sgd, size 0.03"
ROWS = [
    row("tasks", "cosine", "mixed, llama, all slices", -0.2),
    row("tasks", "conflicting slices", "mixed, llama, all slices", 0.8),
    row("tasks", "reliability", "mixed, llama, all slices", 0.99),
    row("limit", "foretold", "mixed, llama, sgd", 0.05, each=[0.04, 0.06]),
    row("limit", "found", "mixed, llama, sgd", 0.2, each=[0.03, 0.3]),
    row("rank", "seeds' average (unsigned, pool A)", STEP, 0.5),
    row("rank", "norm of B's gradient", STEP, 0.5),
    row("rank", "predicted", STEP, 0.99, bound=0.95, direction="at least"),
    row("slope", "predicted", STEP, 1.02, bound=0.9, direction="at least"),
    row("slope", "predicted", STEP, 1.02, bound=1.1, direction="at most"),
    row("R2", "predicted", STEP, 0.97, bound=0.95, direction="at least"),
    row("rank in a block", "predicted", f"{STEP}, block Q", 0.91),
    row("pairs", "predicted", f"{PAIRED}, mean over slices", 0.98, bound=0.85, direction="at least"),
    row("pairs", "predicted", f"{PAIRED}, all slices together", 0.96, bound=0.85, direction="at least"),
    row("pairs, size of the change", "predicted", f"{PAIRED}, mean over slices", 0.2),
    row("planted: precision and recall", "cosine", "planted, llama, 12 of 48 slices", 1.0),
    row("planted: average precision", "cosine", "planted, llama, 12 of 48 slices", 0.9),
    row("points", "predicted", STEP, 3, points=[[0.1, 0.1], [-0.2, -0.1], [0.0, 0.05]], blocks="QKV"),
]  # fmt: skip


@pytest.fixture
def evidence():
    environment = {"python": "3.11", "platform": "Linux", "cpu_capability": "AVX2",
                   "versions": dict.fromkeys(("torch", "transformers", "numpy", "scipy"), "1.0")}  # fmt: skip
    long = {"rows": list(ROWS), "seconds": 600.0, "environment": environment, "complaints": []}
    return {"prediction": [ROWS[7] | {"sets": 1}], "prediction_long": long}


def test_every_table_shows_its_rows(evidence):
    made = prediction_tables.prediction_tables(evidence)
    assert not [name for name, text in made.items() if "Nothing" in text]
    assert "10 minutes with Python 3.11, torch 1.0" in made["prediction_state"]
    assert "| mixed | llama | -0.20 | 0.80 | 0.99 | 5 |" in made["prediction_tasks"]
    assert "0.99 (0.89 to 1.09)" in made["prediction_ranks"]
    assert made["prediction_ranks"].index("predicted") < made["prediction_ranks"].index("seeds")
    assert made["prediction_bounds"].count("this build") == 1
    assert made["prediction_bounds"].count("1.020 (0.920 to 1.120; 5)") == 1  # one line, whichever side is bounded
    assert made["prediction_sizes"].count("1.02 (0.92 to 1.12)") == 1
    assert "0.04, 0.06 | 0.03, above 0.03" in made["prediction_limits"]  # 0.03 is the largest size with a rank
    assert "0.91 (0.81 to 1.01) | – | – | –" in made["prediction_blocks"]
    assert "0.98 (0.88 to 1.08) | 0.96 (0.86 to 1.06) | 0.20" in made["prediction_pairs"]
    assert "1.00 (0.90 to 1.10) | 0.90" in made["prediction_planted"]


def test_numbers_of_the_prose(evidence):
    numbers = prediction_tables.prediction_numbers(evidence)
    assert (numbers["pred_seeds_mixed"], numbers["pred_norm_mixed"]) == ("0.50", "0.50")
    assert numbers["pred_trained"] == "(not measured)"
    assert (numbers["pred_rows"], numbers["pred_bounds"], numbers["pred_bounds_kept"]) == (18, 6, 6)


def test_a_broken_bound_and_a_stale_run_are_said(evidence):
    evidence["prediction_long"]["rows"][7]["status"] = "failed"
    evidence["prediction_long"]["complaints"].append("made by other sources")
    made = prediction_tables.prediction_tables(evidence)
    assert "NOT KEPT" in made["prediction_bounds"]
    assert "made by other sources" in made["prediction_state"]
    evidence["prediction_long"]["rows"][7]["status"] = "passed"


def test_without_a_run_nothing_is_shown():
    made = prediction_tables.prediction_tables({})
    assert made["prediction_ranks"] == made["prediction_planted"] == "Nothing of this was measured.\n"


def test_pictures_draw_every_slice(evidence, tmp_path):
    assert prediction_pictures.write_pictures(tmp_path, evidence) == ["prediction_points.svg", "prediction_ranks.svg"]
    figure = prediction_pictures.draw_points(prediction_tables.rows_of(evidence, "points"))
    drawn = np.concatenate([line.get_xydata() for line in figure.axes[0].lines[1:] if len(line.get_xdata())])
    assert sorted(map(tuple, drawn.tolist())) == [(-0.2, -0.1), (0.0, 0.05), (0.1, 0.1)]
    ranks = prediction_pictures.draw_ranks(prediction_tables.rows_of(evidence, "rank", "llama"))
    assert [label.get_text() for label in ranks.axes[0].get_yticklabels()][-1] == "predicted"
    assert prediction_pictures.draw_points([]).axes
