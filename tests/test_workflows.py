"""The workflows of CI: what may start them, what they may do, and that what they run exists.

Read as data; a planted wrong workflow shows that each rule can fail. That a runner executes them was not tried here.
"""

import ast
import copy
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".github" / "workflows"
SAFE_TRIGGERS = {"ci": {"push", "pull_request"}, "gpu": {"schedule", "workflow_dispatch"}}
GUARD = "github.event.repository.fork == false"


def load(name):
    return yaml.safe_load((FOLDER / f"{name}.yml").read_text(encoding="utf-8"))


def triggers(workflow):
    found = workflow.get("on", workflow.get(True))  # YAML 1.1 reads a bare `on` as true
    return {found} if isinstance(found, str) else set(found)


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def commands(workflow):
    return [line for step in steps(workflow) for line in step.get("run", "").splitlines()]


def complaints(name, workflow):
    """Sentences about a workflow that breaks a rule."""
    found = []
    if extra := triggers(workflow) - SAFE_TRIGGERS[name]:
        found.append(f"started by {sorted(extra)}")
    if workflow.get("permissions") != {"contents": "read"}:
        found.append("permissions of the workflow are more than reading")
    if any("permissions" in job for job in workflow["jobs"].values()):
        found.append("a job has permissions of its own")
    if "concurrency" not in workflow:
        found.append("two runs may get in each other's way")
    if any("timeout-minutes" not in job for job in workflow["jobs"].values()):
        found.append("a job has no time limit")
    for step in steps(workflow):
        if "uses" in step and not re.fullmatch(r"actions/[\w-]+@(v\d+|[0-9a-f]{40})", step["uses"]):
            found.append(f"{step['uses']} is not an action of GitHub's by version or commit")
        if step.get("uses", "").startswith("actions/checkout@") and step.get("with", {}).get("persist-credentials"):
            found.append("credentials are kept")
        if step.get("uses", "").startswith("actions/checkout@") and "persist-credentials" not in step.get("with", {}):
            found.append("credentials are kept")
        if step.get("continue-on-error"):
            found.append("a failure is passed over")
    if "${{ github.event" in " ".join(commands(workflow)):
        found.append("text of others enters a command")
    return found + unknown(commands(workflow)) + (gpu_complaints(workflow) if name == "gpu" else [])


def gpu_complaints(workflow):
    found = []
    for job in workflow["jobs"].values():
        if GUARD not in str(job.get("if", "")):
            found.append("a fork may run it")
        if set(job["runs-on"]) != {"self-hosted", "gpu"}:
            found.append(f"runs on {job['runs-on']}")
    if workflow.get("env", {}).get("QKOV_TORCH") != "system":
        found.append("the image's PyTorch is not used")
    for line in commands(workflow):
        if not line.startswith("python -m "):
            found.append(f"{line!r} is no plain python -m")
        if "--require-gpu" not in line:
            found.append(f"{line!r} is green without a GPU")
    return found


def unknown(lines):
    """What commands name and is not there: sessions, modules of ours, files of tests."""
    found = []
    for line in lines:
        found += [f"no session {one}" for one in re.findall(r"nox -s ([\w-]+)", line) if one not in sessions()]
        for module in re.findall(r"python -m ((?:validation|reports|qkov)[\w.]*)", line):
            path = ROOT / module.replace(".", "/")
            if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists():
                found.append(f"no program {module}")
        found += [f"no file {one}" for one in re.findall(r"tests/\w+\.py", line) if not (ROOT / one).exists()]
    return found


def sessions():
    tree = ast.parse((ROOT / "noxfile.py").read_text(encoding="utf-8"))
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and any("nox.session" in ast.unparse(one) for one in node.decorator_list)
    }


@pytest.mark.parametrize("name", SAFE_TRIGGERS)
def test_workflow_keeps_every_rule(name):
    assert complaints(name, load(name)) == []


def test_there_is_no_workflow_without_rules():
    assert {path.stem for path in FOLDER.iterdir()} == set(SAFE_TRIGGERS)


def test_ci_runs_the_two_commands_of_the_readme_on_each_python_promised():
    workflow, readme = load("ci"), (ROOT / "README.md").read_text(encoding="utf-8")
    first, second = re.search(r"```\n(python3 -m venv .*)\n(.*nox -s tests)\n```", readme).groups()
    assert {first, second} <= set(commands(workflow))
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert workflow["concurrency"]["cancel-in-progress"] is True
    (book,) = [step for step in steps(workflow) if step.get("uses", "").startswith("actions/upload-artifact")]
    assert "_build/book/pages/html" in book["with"]["path"]


def test_ci_uses_the_wheel_and_other_versions_of_what_is_needed():
    jobs = load("ci")["jobs"]
    assert ".venv/bin/nox -s package" in commands({"jobs": {"package": jobs["package"]}})
    assert {".venv/bin/nox -s lowest", ".venv/bin/nox -s newest"} <= set(
        commands({"jobs": {"dependencies": jobs["dependencies"]}})
    )


def test_the_gpu_runs_its_tests_its_laws_and_its_speed():
    joined = "\n".join(commands(load("gpu")))
    for one in ("python -m pytest -m gpu", "python -m validation.gpu", "python -m validation.bench --device cuda"):
        assert one in joined


def on(workflow, **found):
    workflow.pop(True, None)
    workflow["on"] = found


def first_job(workflow):
    return next(iter(workflow["jobs"].values()))


def add(workflow, **step):
    first_job(workflow)["steps"].append(step)


WRONG = {
    "started by ['pull_request']": ("gpu", lambda w: on(w, pull_request=None, schedule=[])),
    "started by ['pull_request_target']": ("ci", lambda w: on(w, pull_request_target=None, push=None)),
    "permissions of the workflow": ("ci", lambda w: w.update(permissions="write-all")),
    "a job has permissions": ("gpu", lambda w: first_job(w).update(permissions={"contents": "write"})),
    "get in each other's way": ("ci", lambda w: w.pop("concurrency")),
    "no time limit": ("gpu", lambda w: first_job(w).pop("timeout-minutes")),
    "not an action of GitHub's": ("ci", lambda w: add(w, uses="somebody/action@v1")),
    "by version or commit": ("ci", lambda w: add(w, uses="actions/checkout@main")),
    "credentials are kept": ("gpu", lambda w: add(w, uses="actions/checkout@v4")),
    "a failure is passed over": ("gpu", lambda w: first_job(w)["steps"][1].update({"continue-on-error": True})),
    "text of others": ("ci", lambda w: add(w, run="echo ${{ github.event.pull_request.title }}")),
    "no session nonsense": ("ci", lambda w: add(w, run=".venv/bin/nox -s nonsense")),
    "no program validation.nonsense": ("gpu", lambda w: add(w, run="python -m validation.nonsense --require-gpu")),
    "no file tests/test_nonsense.py": (
        "gpu",
        lambda w: add(w, run="python -m pytest tests/test_nonsense.py --require-gpu"),
    ),
    "a fork may run it": ("gpu", lambda w: first_job(w).pop("if")),
    "runs on ubuntu-latest": ("gpu", lambda w: first_job(w).update({"runs-on": "ubuntu-latest"})),
    "PyTorch is not used": ("gpu", lambda w: w.pop("env")),
    "is no plain python -m": ("gpu", lambda w: add(w, run="nox -s tests -- --require-gpu")),
    "is green without a GPU": ("gpu", lambda w: add(w, run="python -m validation.gpu")),
}


@pytest.mark.parametrize("said", WRONG)
def test_a_wrong_workflow_is_seen(said):
    name, spoil = WRONG[said]
    workflow = copy.deepcopy(load(name))
    spoil(workflow)
    assert any(said in one for one in complaints(name, workflow)), complaints(name, workflow)
