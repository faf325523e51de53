"""Which sources a group measures: where one of them has changed, its committed numbers are of other code."""

_SCORING = tuple(
    f"qkov/{name}.py" for name in (
        "scoring", "slice_scorer", "score_options", "sides", "tiles", "tile_halves", "factor_tiles", "denominators",
        "interference", "score_attributes", "score_warnings", "formula", "fisher", "score_memory", "score_frame",
    )
)  # fmt: skip
_GRADIENTS = ("qkov/gradients.py", "qkov/module_capture.py", "qkov/returned_losses.py")
_COLLECTION = (
    *_GRADIENTS,
    "qkov/passes.py",
    "qkov/collector.py",
    "qkov/handed_out.py",
    "qkov/losses.py",
    "qkov/sample_rows.py",
)
_HARNESS = ("validation/bench/clock.py", "validation/bench/shapes.py")

SOURCES = {
    "scoring": (*_SCORING, *_GRADIENTS),
    "collection": _COLLECTION,
    "end_to_end": (*_SCORING, *_COLLECTION, "validation/bench/stacked.py"),
    "libraries": (*_SCORING, *_COLLECTION, "validation/bench/stacked.py"),
    "pair_loop": (*_SCORING, *_GRADIENTS),
    "storage": (*_GRADIENTS, "qkov/keeping.py", "qkov/shards.py", "qkov/store.py", "qkov/store_contents.py"),
    "memory": (*_SCORING, *_COLLECTION),
    "budget": ("validation/memory_peaks.py", "validation/evidence/memory_peaks.json"),
    "permutations": tuple(f"qkov/statistics/{name}.py" for name in ("exchange", "pair_forms", "relabelings")),
    "accuracy": (*_SCORING, *_GRADIENTS, "qkov/reference.py"),
    "gpu": (*_SCORING, *_GRADIENTS),
}
"""Paths of sources by group; one that does not exist counts as nothing until it does."""


def patterns(group):
    """Everything that the numbers of a group depend on: what is measured, and how."""
    return (*SOURCES[group], *_HARNESS, f"validation/bench/{group}.py")
