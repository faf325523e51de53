"""Why a mutant may survive.

Either it is no change (an equivalent mutant), which a line proves, or it changes something that is left untested, and the line
says why. Most belong to a few families that a rule recognises: the lines before and after are the same once the rule has
blanked what it is about. The others are listed one by one.
"""

import re
from dataclasses import dataclass

EQUIVALENT, GUARD, WORDING, SPEED, UNTESTED = "equivalent", "guard", "wording", "speed", "untested"
UNEXPLAINED = "unexplained"
KINDS = {
    EQUIVALENT: "no change of behaviour",
    GUARD: "takes away a guard against a mistake inside the package, which cannot happen now",
    WORDING: "only the words of a message",
    SPEED: "only speed or memory",
    UNTESTED: "deliberately untested",
    UNEXPLAINED: "no reason given",
}


@dataclass(frozen=True)
class Rule:
    """A family of survivors: those whose lines are equal but for what matches ``pattern``."""

    pattern: str
    kind: str
    reason: str
    where: str = ""

    def covers(self, before, after):
        """Tell whether blanking the pattern makes both texts the same; ``where`` must be in the first."""
        first, second = (_plain(re.sub(self.pattern, "", text)) for text in (before, after))
        return self.where in before and first == second


RULES = (
    Rule(r"strict=(True|False|None)", GUARD, "zip: the lengths are equal by construction"),
    Rule(r'kind=("stable"|"STABLE"|None)', EQUIVALENT,
         "argsort of 64-bit random words: any order of ties is the same where there are none, and NumPy reads the name in "
         "capitals too"),
    Rule(r"axis=1", EQUIVALENT, "argsort of a matrix goes along its last axis anyway", where="argsort("),
    Rule(r"\.astype\((np\.float64|None)\)", EQUIVALENT, "NumPy reads None as float64"),
    Rule(r"dtype=(np\.float64|None)", EQUIVALENT, "NumPy makes float64 by itself here"),
)  # fmt: skip

# By source and function: (before, after, kind, reason); a line and its mutant.
LISTED = {}


def reason(source, survivor):
    """Return ``{"kind": ..., "reason": ...}`` of a survivor."""
    for function, before, after, kind, text in LISTED.get(source, ()):
        if (function, before, after) == (survivor["function"], survivor["before"], survivor["after"]):
            return {"kind": kind, "reason": text}
    for rule in RULES:
        if rule.covers(survivor["before"], survivor["after"]):
            return {"kind": rule.kind, "reason": rule.reason}
    if survivor["wording"]:
        return {"kind": WORDING, "reason": "a message that says the same in other letters"}
    return {"kind": UNEXPLAINED, "reason": ""}


def _plain(text):
    """Without white space and without commas before a closing bracket."""
    return re.sub(r",(?=[)\]])", "", re.sub(r",+", ",", re.sub(r"\s+", "", text)))
