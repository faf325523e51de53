"""A situation as data: what is done, which error or warning must come, and what its message must say."""

from collections.abc import Callable
from dataclasses import dataclass, field

from qkov.errors import QKOVError

CASES = {}  # name -> Case; filled by the modules of cases, in their order


@dataclass(frozen=True)
class Case:
    """One thing that can go wrong, or that could be taken wrongly, and what happens then.

    Attributes:
        name: Key in ``CASES``.
        group: Heading under which tables list it.
        situation: What is done, for tables.
        behaviour: What happens, in one sentence.
        error: The exact class that must be raised; None where the right result must come instead.
        status: ``exit_status`` of the error; None without one.
        says: What the message must contain: where it happened (sample, parameter, module, task, file), then the remedy.
        warning: The exact class of the warning that must be given; ``says`` is then asked of it.
        adds: Whether the action may add samples; what was there before must not change in any case.
        missing: ``missing() -> why it cannot run here``, or "".
        act: ``act(ground)`` does it; where no error is expected it raises ``Wrong`` if the result is not right.
    """

    name: str
    group: str
    situation: str
    behaviour: str
    error: type | None
    status: int | None
    says: tuple
    warning: type | None
    adds: bool
    missing: Callable = field(repr=False)
    act: Callable = field(repr=False)


class Wrong(AssertionError):
    """A result that is not what the case says."""


def require(condition, sentence):
    """Fail the case with a sentence unless the condition holds."""
    if not condition:
        raise Wrong(sentence)


def case(situation, *, group, error=None, status=None, says=(), warning=None, adds=False, missing=lambda: ""):
    """Register ``act(ground)`` as a case; its name and docstring become the case's.

    An error or warning must be our own, say where it happened and what to do: ``says`` has at least two parts.
    """

    def register(act):
        if act.__name__ in CASES:
            raise ValueError(f"two cases are named {act.__name__!r}")
        if (error or warning) and len(says) < 2:
            raise ValueError(f"case {act.__name__!r}: 'says' needs where it happened, and the remedy")
        if error and not (issubclass(error, QKOVError) and error.exit_status == status):
            raise ValueError(f"case {act.__name__!r}: {error.__name__} does not end with status {status}")
        behaviour = " ".join(act.__doc__.split())
        CASES[act.__name__] = Case(
            act.__name__, group, situation, behaviour, error, status, tuple(says), warning, adds, missing, act
        )
        return act

    return register
