"""Why a goal is not reached: looked up when the page is made. A missed goal without an entry is a complaint."""

_SHARED = (
    "most of the time is the forward and backward pass, which every route makes alike: what is beyond it is little, with or "
    "without this package. Where all weights of the model ask for a gradient, as in a model that nobody has prepared, the "
    "difference is larger: it is shown beside"
)

MISSED = {
    "scoring": (
        "the worst size is shown. The products themselves run at about four fifths of the square one, being thin; the rest "
        "is lost to norms of whole blocks, which the default damping needs the first time samples are scored, to squares, "
        "quotients and means of the Fisher diagonal, and to the health of every slice. With 200 samples a task the goal is met"
    ),
    "scoring-short": (
        "with few tokens and few samples the products are thin, and squares, quotients, means and health, which take the same "
        "time as for long texts, weigh twice as much"
    ),
    "opacus": _SHARED,
    "kronfluence": _SHARED,
    "peak": (
        "passes of 512 tokens hold activations beside the samples, a quarter of which go to the output layer; with "
        "`micro_batch=1`, or a `memory_budget`, less is held, for a few per cent of time"
    ),
}
"""``{goal name: a sentence for the page}``."""
