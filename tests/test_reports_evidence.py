"""Evidence is read, and verdicts that do not follow from their numbers are found."""

import copy
import json

import pytest

from reports import evidence

GOOD = {
    "format": "qkov-evidence-1",
    "results": [
        {
            "check": "marginal_identity",
            "model": "llama",
            "status": "passed",
            "error": 1e-9,
            "bound": 1e-6,
            "compared": 1234,
            "seconds": 0.5,
            "reason": "",
        },
        {
            "check": "gauge",
            "model": "bert",
            "status": "not run",
            "error": None,
            "bound": None,
            "compared": 0,
            "seconds": 0.0,
            "reason": "q/k norms | <none>",
        },
    ],
    "faults": [
        {
            "fault": "o_by_rows",
            "area": "slicing",
            "description": "slices O by rows",
            "expected": "relabelling",
            "caught_by": ["relabelling", "marginal_identity"],
            "ratio": 1e5,
            "status": "caught",
            "seconds": 1.0,
        }
    ],
    "offline": [{"where": "the main process", "status": "refused", "said": "sockets are blocked"}],
    "models": [
        {
            "name": "llama",
            "kind": "synthetic",
            "parameters": 12345,
            "description": "two layers",
            "fingerprint": "0123456789abcdef",
            "notes": "",
        }
    ],
    "families": [
        {
            "family": "bloom",
            "attention_class": "BloomAttention",
            "packing": "interleaved",
            "num_heads": 6,
            "num_kv_heads": 6,
            "head_dim": 4,
            "k_head_dim": 4,
            "v_head_dim": 4,
            "checks_passed": 9,
            "checks_not_run": {"relabelling": "a bias by distance"},
            "status": "proved",
            "reason": "",
        }
    ],
    "refused": [{"family": "albert", "status": "refused", "reason": "the same weights serve several layers"}],
    "statistics": [
        {
            "study": "type I",
            "procedure": "test_source",
            "data": "light",
            "sets": 80,
            "value": 0.0625,
            "low": 0.04,
            "high": 0.08,
            "bound": 0.137,
            "direction": "at most",
            "status": "passed",
        }
    ],
    "statistics_long": {
        "rows": [
            {
                "study": "type I",
                "procedure": "test_source",
                "data": "light",
                "sets": 1000,
                "value": 0.05,
                "low": 0.046,
                "high": 0.054,
                "bound": 0.074,
                "direction": "at most",
                "status": "passed",
            },
            {
                "study": "invalid",
                "procedure": "z-test of the mean over pairs",
                "data": "light",
                "sets": 200,
                "value": 1.0,
                "low": 0.98,
                "high": 1.0,
                "bound": 0.95,
                "direction": "must exceed",
                "status": "passed",
                "ours": 0.05,
                "why": "the score is never negative",
            },
        ],
        "seconds": 1200.0,
        "complaints": [],
    },
    "store": [
        {
            "study": "store harness",
            "harness": "kills",
            "procedure": "SIGKILL at a change of a file",
            "data": "collection, recovery, repair",
            "sets": 50,
            "points": 50,
            "value": 0,
            "low": 0.0,
            "high": 0.0,
            "bound": 0,
            "direction": "at most",
            "status": "passed",
            "lost": 0,
            "wrong": 0,
            "silent": 0,
            "untold": 0,
            "seconds": 2.0,
        }
    ],
    "head_types": [
        {
            "study": "head types",
            "procedure": "gain lost without the induction heads",
            "data": "repeated random tokens",
            "sets": 3,
            "value": 1.5,
            "low": None,
            "high": None,
            "bound": 0.8,
            "direction": "at least",
            "status": "passed",
        }
    ],
    "bad_input": [
        {
            "case": "one_token",
            "group": "Samples",
            "situation": "a sample of one token",
            "behaviour": "The error names the sample.",
            "expected": "BatchError",
            "error": "BatchError",
            "warning": "none",
            "exit_status": 3,
            "message": "sample '<b>' has no predicted token. Remove it.",
            "unchanged": True,
            "status": "passed",
            "reason": "",
            "seconds": 0.1,
        },
        {
            "case": "peft",
            "group": "Models",
            "situation": "adapters of a package",
            "behaviour": "Measured.",
            "expected": "none",
            "error": "none",
            "warning": "none",
            "exit_status": None,
            "message": "",
            "unchanged": None,
            "status": "not run",
            "reason": "the package peft is not installed",
            "seconds": 0.0,
        },
    ],
    "not_run": [{"what": "GPU", "reason": "no CUDA device"}],
    "summary": {},
}
for _name in ("prediction", "remedies"):
    GOOD[_name] = [GOOD["statistics"][0] | {"study": f"{_name}: rank", "data": "conflict, llama, sgd, size 0.03"}]
MANIFEST = {"commit": "abc", "threads": {"OMP_NUM_THREADS": "1"}, "lists": [{"name": "Q", "shape": [2, 3]}]}


def write(folder, found=GOOD, manifest=MANIFEST):
    """Write evidence the way the validation does; other test files use this too."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evidence.json").write_text(json.dumps(found))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def changed(part, **values):
    """A copy of the good evidence with one entry changed."""
    found = copy.deepcopy(GOOD)
    found[part][0].update(values)
    return found


def equivalent(**values):
    """Twenty-one faults, one of them called equivalent."""
    one = GOOD["faults"][0] | {"fault": "none", "status": "equivalent", "caught_by": []} | values
    return GOOD | {"faults": [*GOOD["faults"] * 20, one]}


def redundant(**values):
    """One fault that one check catches, and a row on that check."""
    row = {"check": "relabelling", "caught": 1, "alone": 1, "reason": ""} | values
    return GOOD | {"faults": [GOOD["faults"][0] | {"caught_by": ["relabelling"]}], "redundancy": [row]}


def test_written_evidence_is_read_back(tmp_path):
    assert evidence.load_evidence(write(tmp_path)) == (GOOD, MANIFEST)


def test_missing_evidence_names_the_command(tmp_path):
    with pytest.raises(evidence.EvidenceError, match=r"evidence\.json does not exist. Run `python -m validation`"):
        evidence.load_evidence(tmp_path)


def test_truncated_evidence_is_refused(tmp_path):
    write(tmp_path)
    (tmp_path / "evidence.json").write_text('{"format": ')
    with pytest.raises(evidence.EvidenceError, match="is not JSON"):
        evidence.load_evidence(tmp_path)


def test_other_format_is_refused(tmp_path):
    with pytest.raises(evidence.EvidenceError, match="has format 'other'; expected 'qkov-evidence-1'"):
        evidence.load_evidence(write(tmp_path, {"format": "other"}))


def test_good_evidence_has_nothing_to_object():
    assert evidence.audit(GOOD) == []


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        (changed("results", error=2e-6), "exceeds its bound"),
        (changed("results", error=float("nan")), "its error is nan"),
        (changed("results", error=float("inf"), bound=float("inf")), "its error is inf"),
        (changed("results", error=None), "its error is None"),
        (changed("results", bound=None), "its bound None"),
        (changed("results", bound=float("nan")), "exceeds its bound"),
        (changed("results", compared=0), "nothing was compared"),
        (changed("results", status="failed"), "nothing ran"),
        (changed("faults", caught_by=["marginal_identity"]), "not by relabelling"),
        (changed("faults", ratio=9.0), "by 9 times the bound only"),
        (changed("faults", ratio=float("nan")), "by nan times the bound only"),
        (changed("statistics", value=0.2), "0.2 is not at most 0.137"),
        (changed("statistics", value=None), "its value is None"),
        (changed("statistics", value=float("nan"), direction="shown"), "its value is nan"),
        (changed("statistics", bound=None), "its bound is None"),
        (changed("statistics", direction="about"), "its direction 'about'"),
        (changed("statistics", sets=0), "no data set was drawn"),
        (changed("statistics", direction="at least"), "0.0625 is not at least 0.137"),
        (changed("statistics", direction="must exceed", value=0.137), "0.137 is not above 0.137"),
        (
            changed("bad_input", unchanged=False),
            "one_token is called passed, but what was collected before has changed",
        ),
        (changed("bad_input", unchanged=None), "what was collected before has changed"),
        (changed("bad_input", error="none", exit_status=None), "none came where BatchError was expected"),
        (changed("bad_input", error="ValueError"), "ValueError came where BatchError was expected"),
        (changed("bad_input", exit_status=None), "its error is BatchError and its exit status None"),
        (changed("bad_input", message=""), "its error says nothing"),
        ({**GOOD, "bad_input": GOOD["bad_input"][1:]}, "no situation of bad input passed"),
        ({**GOOD, "bad_input": []}, "no situation of bad input passed"),
        (
            changed("faults", status="equivalent", caught_by=[], proof="both are 0"),
            "1 of 1 faults are called equivalent",
        ),
        (equivalent(caught_by=["relabelling"], proof="both are 0"), "equivalent, but relabelling caught it"),
        (equivalent(), "called equivalent without a proof"),
        (redundant(caught=2), "is said to catch 2 faults, 1 alone; counted (1, 1)"),
        (redundant(alone=0, reason="because"), "is said to catch 1 faults, 0 alone; counted (1, 1)"),
        (redundant(reason="because"), "catches 1 faults alone and has a reason to be kept, and needs none"),
        (redundant(check="gauge", caught=0, alone=0), "catches 0 faults alone and has no reason to be kept"),
        ({**GOOD, "faults": []}, "no fault was planted"),
        ({**GOOD, "results": []}, "nothing ran"),
    ],
)
def test_verdict_that_its_numbers_do_not_carry_is_found(found, complaint):
    complaints = evidence.audit(found)
    assert len(complaints) == 1
    assert complaint in complaints[0]


def test_equivalent_faults_and_needed_checks_are_no_objection():
    found = equivalent(proof="both are 0")
    assert evidence.audit(found) == []
    assert evidence.count(found)["faults"] == (21, 0, 0)
    assert evidence.audit(redundant()) == []
    assert evidence.audit(redundant(check="gauge", caught=0, alone=0, reason="because")) == []


def test_failed_results_are_counted_not_objected_to():
    found = copy.deepcopy(GOOD)
    found["results"].append({**GOOD["results"][0], "status": "failed", "error": 1.0})
    found["faults"].append({**GOOD["faults"][0], "status": "missed", "caught_by": [], "ratio": 0.1})
    assert evidence.audit(found) == []
    assert evidence.count(found) == {"checks": (1, 1, 2), "faults": (1, 1, 0), "families": (2, 0, 1), "bad_input": (1, 0, 1),
                                        "statistics": (3, 0, 0), "prediction": (1, 0, 0), "remedies": (1, 0, 0),
                                        "head_types": (1, 0, 0), "store": (1, 0, 0)}  # fmt: skip


def test_rates_that_failed_and_complaints_about_the_long_run_count_as_failed():
    found = copy.deepcopy(GOOD)
    found["statistics"][0]["status"] = "failed"
    found["statistics_long"]["complaints"].append("made by other sources")
    assert evidence.count(found)["statistics"] == (2, 2, 0)
    assert evidence.audit(found) == []


def test_findings_on_head_types_count_and_are_audited():
    found = changed("head_types", status="failed")
    assert evidence.count(found)["head_types"] == (0, 1, 0)
    assert evidence.audit(changed("head_types", value=0.7)) == [
        "head types of gain lost without the induction heads on repeated random tokens is called passed, but 0.7 is not"
        " at least 0.8"
    ]


def test_situations_of_bad_input_count_by_outcome():
    assert evidence.count(changed("bad_input", status="failed"))["bad_input"] == (0, 1, 1)
    assert evidence.count(changed("bad_input", status="fine"))["bad_input"] == (0, 1, 1)
    assert evidence.count({**GOOD, "bad_input": []})["bad_input"] == (0, 0, 0)


def test_unknown_status_counts_as_failed():
    assert evidence.count(changed("results", status="fine"))["checks"] == (0, 1, 2)


def test_families_count_by_verdict_and_what_does_not_cover_them():
    assert evidence.count(GOOD)["families"] == (2, 0, 1)
    assert evidence.count(changed("families", status="failed"))["families"] == (1, 1, 1)
    assert evidence.count(changed("refused", status="failed"))["families"] == (1, 1, 1)
