"""Why a goal is not reached: looked up when the page is made. A missed goal without an entry is a complaint."""

_SHARED = (
    "both spend most of the time on the forward and backward pass, which every route makes alike; what is left"
    " to save is little. Where all weights of the model ask for a gradient, as in a model that nobody has "
    "prepared, the difference is larger: see the row beside"
)

MISSED = {
    "scoring": (
        "the worst size is shown; more samples come nearer. Thin products are slower than the "
        "square one, and not counted as work are norms of whole blocks, which the default damping needs the first "
        "time samples are scored, squares, quotients and means of the Fisher diagonal, and the health of every "
        "slice"
    ),
    "scoring-short": (
        "with few tokens and few samples products are thinner still, and squares, quotients, means and health, "
        "which take as long as for long texts, weigh more"
    ),
    "opacus": _SHARED,
    "kronfluence": _SHARED,
    "peak": (
        "a pass of 512 tokens holds activations beside the samples; with `micro_batch=1`, or a `memory_budget`, "
        "less is held"
    ),
}
"""``{goal name: a sentence for the page}``."""
