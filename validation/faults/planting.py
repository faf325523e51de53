"""A wrong implementation as data: which attribute of ``qkov`` it replaces, by what, and which check must notice."""

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

FAULTS = {}  # name -> Fault; filled by the modules of faults, in their order
STATISTICS_FAULTS = {}  # the same for the statistics, whose checks are those of statistics_checks


@dataclass(frozen=True)
class Fault:
    """One way to get the metric wrong.

    Attributes:
        name: Key in ``FAULTS``.
        area: Part of the package that is wrong, for tables.
        description: What it does, in one sentence.
        expected: Name of the check that must catch it, by at least ten times its bound.
        target: The attribute that is replaced, below ``qkov``: ``"geometry.kv_head_of"``, ``"scoring.Side.block_mean"``.
        case: Key of ``cases.BUILDERS``: the small model on which it shows.
        wrong: ``wrong(original) -> replacement``, both as the class or module stores them.
        proof: Why nothing can tell it from the right code, where that is so; empty for a fault that must be caught.
    """

    name: str
    area: str
    description: str
    expected: str
    target: str
    case: str
    wrong: Callable = field(repr=False)
    proof: str = ""

    def plant(self):
        """Replace the attribute until the block ends, whatever happens in it."""
        return planted(self.target, self.wrong)


@contextlib.contextmanager
def planted(target, wrong):
    """Replace an attribute of ``qkov``, named by its path, by ``wrong(original)`` until the block ends."""
    module, *path, name = target.split(".")
    owner = importlib.import_module(f"qkov.{module}")
    for part in path:
        owner = getattr(owner, part)
    original = vars(owner)[name]  # as stored: a property stays a property
    setattr(owner, name, wrong(original))
    try:
        yield
    finally:
        setattr(owner, name, original)


def fault(target, *, area, expected, case="grouped", registry=FAULTS, proof=""):
    """Register ``wrong(original) -> replacement`` as a fault; its name and docstring become the fault's."""

    def register(wrong):
        if wrong.__name__ in FAULTS | STATISTICS_FAULTS:
            raise ValueError(f"two faults are named {wrong.__name__!r}")
        description = " ".join(wrong.__doc__.split())
        registry[wrong.__name__] = Fault(wrong.__name__, area, description, expected, target, case, wrong, proof)
        return wrong

    return register
