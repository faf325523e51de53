"""`python -m reports.picture`: draw the picture of README, code against prose on the trained Llama-style model."""

from pathlib import Path

import qkov
from qkov import plots
from validation import tasks, trained

PICTURE = Path(__file__).resolve().parent.parent / "book" / "_static" / "heatmap.svg"
NUM_SAMPLES, LENGTH = 32, 96


def score_tasks():
    """Score code against prose from held-out modules, pooled Fisher; ids say where each text came from."""
    model = trained.load_model("llama")
    collector = qkov.FisherCollector()
    for task in ("code", "prose"):
        text = tasks.load_task(task, NUM_SAMPLES, LENGTH)
        collector.collect_fisher(model, tasks.as_batch(text), task, sample_ids=text.ids, clusters=text.clusters)
    metric = qkov.QKOVInterferenceMetric(collector.config, collector, fisher_pool="pooled")
    return metric.compute_heatmap("code", "prose")


def main():
    """Write the picture."""
    plots.save_picture(score_tasks().plot(), PICTURE)
    print(PICTURE.relative_to(PICTURE.parents[2]))


if __name__ == "__main__":
    main()
