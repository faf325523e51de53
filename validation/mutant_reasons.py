"""Why a mutant may survive.

Either it is no change (an equivalent mutant), which a line proves, or it changes something that is left untested, and the line
says why. A rule recognises its mutants by what they change: the lines before and after are the same once the rule has blanked
what it is about. A rule for one file says so.
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
PROVED = (EQUIVALENT, GUARD, SPEED)  # no test can be written that kills them


@dataclass(frozen=True)
class Rule:
    """A family of survivors: those whose lines are equal but for what matches ``pattern``.

    Attributes:
        pattern: A regular expression for what is changed.
        kind: One of :data:`KINDS`.
        reason: Why it survives, in a line.
        where: What must stand in the line.
        file: The source, where the reason holds for that one only.
    """

    pattern: str
    kind: str
    reason: str
    where: str = ""
    file: str = ""

    def covers(self, file, before, after):
        """Tell whether blanking the pattern makes both texts the same."""
        if self.file not in ("", file) or self.where not in before:
            return False
        first, second = (_plain(re.sub(self.pattern, "", text)) for text in (before, after))
        return first == second


RULES = (
    Rule(r"strict=(True|False|None)", GUARD, "zip: the lengths are equal by construction"),
    Rule(r'kind=("stable"|"STABLE"|None)', EQUIVALENT,
         "argsort of 64-bit random words: any order of ties is the same where there are none, and NumPy reads the name in "
         "capitals too", "words"),
    Rule(r"axis=1", EQUIVALENT, "argsort of a matrix goes along its last axis anyway", "argsort("),
    Rule(r"\.astype\((np\.float64|None)\)", EQUIVALENT, "NumPy reads None as float64"),
    Rule(r"dtype=(np\.float64|None)", EQUIVALENT, "whole numbers are divided as float64 anyway", "np.array(counts",
         "qkov/statistics/multiplicity.py"),
    Rule(r"dtype=(np\.float64|None)", EQUIVALENT, "sums and products of sizes are as exact in whole numbers", "asarray(sizes",
         "qkov/statistics/pair_forms.py"),
    Rule(r"(?<=[( ])-[12](?=[,)])", EQUIVALENT, "NumPy takes any negative length as the one to be found", "reshape("),
    Rule(r'\bdivide=("ignore"|None)', GUARD, "the numerator is 0 wherever the denominator is", "errstate"),
    # Single files
    Rule(r'normalisation="\w+"', EQUIVALENT, 'every word but "none" means tokens', file="qkov/formula.py"),
    Rule(r'normalize_gj="\w+"', EQUIVALENT, 'every word but "per_token" means none', file="qkov/formula.py"),
    Rule(r"num_tokens_b\.to\((grad_b|None)\)", EQUIVALENT,
         "torch divides by whole numbers in the type of the gradients", file="qkov/formula.py"),
    Rule(r"shape\[[-+]1\]", EQUIVALENT, "factors are matrices, of which axis 1 is the last", file="qkov/formula.py"),
    Rule(r"(sum|amax)\([-+]1", EQUIVALENT, "gradients of a slice are a matrix, of which axis 1 is the last",
         file="qkov/formula.py"),
    Rule(r"dim=[-+]1", EQUIVALENT, "gradients of a slice are a matrix, and 1 is also what torch takes by itself",
         file="qkov/formula.py"),
    Rule(r"sum\([-+]1", EQUIVALENT, "contributions of a slice are a matrix, of which axis 1 is the last",
         file="qkov/fisher.py"),
    Rule(r'"(sym|XXsymXX|SYM)"|None', EQUIVALENT, 'every word but "asym" means sym', "exchange.effect",
         "qkov/statistics/effects.py"),
    Rule(r"(\(|\)| and False)", EQUIVALENT, "a pair without a score makes a mean NaN, and with it the effect",
         "exchange.effect", "qkov/statistics/effects.py"),
    Rule(r"[-+] 1", EQUIVALENT, "the half-width is 0 times the quantile, whatever its degrees of freedom", "no spread at all",
         "qkov/statistics/effects.py"),
    Rule(r'num_slices\(("\w+"|None)', EQUIVALENT, "gradients that this would name were refused a line before",
         file="qkov/statistics/exchange.py"),
    Rule(r"(num)?_slices\((name|None)", EQUIVALENT, "groups that this would name were refused by num_samples before",
         file="qkov/statistics/slices.py"),
    Rule(r"[()]| and False|XX|holm|HOLM", SPEED, "statsmodels gives the same, and collects garbage on every call",
         "_holm(", "qkov/statistics/multiplicity.py"),
    Rule(r'kind=("stable"|"STABLE"|None)', EQUIVALENT, "equal p values become the same adjusted value in any order",
         "np.argsort(p", "qkov/statistics/multiplicity.py"),
    Rule(r'kind=("stable"|"STABLE"|None)', EQUIVALENT,
         "slices in ties all get the p value of the first of them, which is compared with all, in any order", "-observed",
         "qkov/statistics/multiplicity.py"),
    Rule(r"max\([12], |[-+]\([-+]|//?", SPEED, "labellings are taken in parts, for the cache", "array_split",
         "qkov/statistics/pair_forms.py"),
    Rule(r"[*/] \(n_a \+ n_b\)", EQUIVALENT, "a constant factor of all slices, which neither a lift nor a correlation sees",
         file="qkov/statistics/map_reliability.py"),
    Rule(r"directed=(False|True|None)", EQUIVALENT, "SciPy joins what a directed graph joins weakly by itself",
         file="qkov/statistics/cluster_mass.py"),
    Rule(r"XX", EQUIVALENT, "blocks are the letters Q, K, V and O, of which no other is in the longer word", ' in "KV"'),
    Rule(r"range\([45]\)", EQUIVALENT, "the last column is not padded, its width is not read", file="qkov/layout.py"),
    Rule(r'right_factor\(("\w+"|None), grad, (grad|None)', EQUIVALENT, "every word that names no other variant is unsigned, "
         "which reads the raw gradients alone", file="qkov/interference.py"),
    Rule(r"sum\([-+]1", EQUIVALENT, "gradients of a slice are a matrix, of which axis 1 is the last",
         file="qkov/interference.py"),
    Rule(r"(?<=, )(bool|np\.int64|None)\b", EQUIVALENT, "NumPy makes truths of truths and int64 of ints by itself",
         "np.array([[", "qkov/interference.py"),
    Rule(r"self\.present\.shape|None", EQUIVALENT, "the lists of rows have that shape already; NumPy keeps it for None",
         "reshape(self.present", "qkov/interference.py"),
    Rule(r"> 0|>= 0", EQUIVALENT, "a result without pairs is not valid, whatever is said of it", "len(members_b)",
         "qkov/interference.py"),
    Rule(r"else [01]", EQUIVALENT, "a selection without layers is refused a few lines later", "if layouts",
         "qkov/interference.py"),
    Rule(r"-[12]", EQUIVALENT, "every negative number is refused", "value = ", "qkov/statistics/relabelings.py"),
    Rule(r"np\.float32|None", SPEED, "whole numbers below 2^24 are as exact in float64, which is slower", "first.astype",
         "qkov/statistics/pair_forms.py"),
    Rule(r"largest >=? 0|[01]\.0", EQUIVALENT, "0 in units of any step is 0", file="qkov/statistics/pair_forms.py"),
    Rule(r"(?<=, )[01]\.0", EQUIVALENT, "its weight is 0", "np.where(tested", "qkov/statistics/layer_result.py"),
    Rule(r"[12]\.0", EQUIVALENT, "0 is divided by it", "np.where(", "qkov/statistics/slices.py"),
    Rule(r"norm > [01]", EQUIVALENT, "over its largest entry a sample has a norm of 0 or of 1 and more",
         file="qkov/statistics/slices.py"),
    Rule(r"np\.nan|None", EQUIVALENT, "NumPy reads None as NaN in an array of floats", "scores[dead",
         "qkov/statistics/slices.py"),
    Rule(r"spread >=?", EQUIVALENT, "a spread that is the bound to the last bit", "1e-12", "qkov/statistics/source.py"),
    Rule(r"fill_diagonal\(same, (False|None)", EQUIVALENT, "NumPy reads None as False in an array of truths",
         file="qkov/statistics/intervals.py"),
    Rule(r"np\.where\((alone|None), (0\.0|1\.0|None)", EQUIVALENT, "of a head that is alone everything becomes NaN later on",
         "weights[", "qkov/statistics/intervals.py"),
    Rule(r">=?", EQUIVALENT, "the bound with its tolerance, no product of whole numbers, is never met exactly", "1e-12",
         "qkov/statistics/conformal.py"),
    Rule(r">=?", EQUIVALENT, "the bound with its tolerance, no product of whole numbers, is never met exactly", "1e-12",
         "qkov/statistics/head_result.py"),
)  # fmt: skip


def reason(file, survivor):
    """Return ``{"kind": ..., "reason": ...}`` of a survivor."""
    for rule in RULES:
        if rule.covers(file, survivor["before"], survivor["after"]):
            return {"kind": rule.kind, "reason": rule.reason}
    if survivor["wording"]:
        return {"kind": WORDING, "reason": "a message that says the same in other letters"}
    return {"kind": UNEXPLAINED, "reason": ""}


def _plain(text):
    """Without white space, and without commas that are doubled or stand before a closing bracket."""
    return re.sub(r",(?=[)\]])", "", re.sub(r",+", ",", re.sub(r"\s+", "", text)))
