"""A store loses nothing: each harness at a few hundred points; `nox -s soak` goes through thousands."""

import os
import random

import pytest

from qkov.store import Store
from validation.store import corruption, damage, disk, kills, machine, power, refusals, system, traced, workload
from validation.store.outcomes import Outcome


def passed(outcome, points):
    assert outcome.passed, str(outcome)
    assert outcome.points == points, str(outcome)


def test_kills_lose_nothing():
    passed(kills.run(200), 200)


def test_power_failures_lose_nothing():
    passed(power.run(150), 150)


def test_refusals_are_told_and_leave_the_store_as_it_was():
    passed(refusals.run(280), 280)


def test_damage_is_noticed_named_and_repaired():
    passed(corruption.run(400, 100, 100), 600 + len(list(damage.removals())))


def test_any_order_of_operations_keeps_what_was_committed():
    passed(machine.run(200, steps=30), 200)


def test_refused_system_calls_are_told():
    if reason := traced.missing():
        pytest.skip(f"system calls were not refused: {reason}")
    passed(traced.run(26), 26)


def test_reference_holds_both_forms_and_every_kind_of_line():
    files, found = workload.reference()
    biases = {len(factors["q_proj"][2]) for task in found.values() for *_, factors, _ in task.values()}
    assert len(biases) == 2  # whole gradients have one, factors do not
    assert {name for task in found for name in found[task]} == {0, 1, 2, "x", "y"}
    for kind in (b'"kind":"pass"', b'"kind":"task"', b'"kind":"skipped"', b'"kind":"store"'):
        assert kind in files["journal"]


def test_the_reference_is_what_was_given():
    _, found = workload.reference()
    for task, samples in found.items():
        for name, (_, _, tokens, digest, factors, norms) in samples.items():
            given = workload.sample(task, name)
            assert (tokens, digest) == (given.num_tokens, given.digest)
            for module, (inputs, deltas, bias) in factors.items():
                pair = given.factors[module]
                if bias:
                    assert norms
                else:
                    assert (inputs, deltas) == tuple(
                        one.contiguous().numpy().tobytes() for one in (pair.inputs, pair.deltas)
                    )


def test_a_killed_child_has_ended_at_the_primitive(tmp_path):
    everything = set().union(*map(workload.acknowledged, workload.PLAN))
    assert kills.killed(lambda ack: workload.collect(tmp_path / "store", ack=ack), 0) == set()
    assert not (tmp_path / "store" / "journal").exists()
    assert kills.killed(lambda ack: workload.collect(tmp_path / "store", ack=ack), 10**6) == everything
    assert workload.judge(tmp_path / "store", everything) == []


def test_judging_finds_what_is_lost_and_what_is_wrong(tmp_path):
    files, _ = workload.reference()
    folder = workload.restore(tmp_path / "store", files)
    assert [kind for kind, _ in workload.judge(folder, {("alpha", 77)})] == ["lost"]
    assert [kind for kind, _ in workload.judge_resuming(folder, {("alpha", 77)})] == ["lost"]
    (folder / "other").mkdir()
    (folder / "shards" / "stray").write_bytes(b"1")
    workload.restore(folder, files | {"shards/stray": b"1"})
    assert ("wrong", "ends with other files: damaged/stray") in workload.judge_resuming(folder, set())
    workload.restore(folder, {name: data for name, data in files.items() if "00000001" not in name})
    assert [kind for kind, _ in workload.judge_reading(folder, set())] == ["wrong"]
    assert [kind for kind, _ in workload.judge_reading(tmp_path / "none", {("alpha", 0)})] == ["lost"]
    assert workload.judge_reading(tmp_path / "none", set()) == []


def test_an_outcome_counts_and_keeps_the_first_examples():
    outcome = Outcome("kills", stop=True)
    assert not outcome.add("one", [])
    assert outcome.add("two", [("lost", "a"), ("wrong", "b")])
    assert (outcome.points, outcome.lost, outcome.wrong, outcome.found, outcome.passed) == (2, 1, 1, 2, False)
    assert "lost: two: a" in str(outcome)


def states(recorder, draws=200):
    return [recorder.disk.crashed(random.Random(seed)) for seed in range(draws)]


def recorded(root, *steps):
    recorder = disk.Recorder(root)
    with system.installed(recorder.act):
        for step in steps:
            step(system.durable)
    return recorder


def test_synced_bytes_under_synced_names_are_in_every_state(tmp_path):
    recorder = recorded(tmp_path, lambda durable: durable.write_file(tmp_path / "file", [b"abc"]))
    assert all(state["file"] == b"abc" for state in states(recorder))
    assert (tmp_path / "file").read_bytes() == b"abc"


def test_a_name_that_was_not_synced_may_be_lost(tmp_path):
    recorder = recorded(tmp_path, lambda durable: durable.write_file(tmp_path / "file", [b"abc"], sync_name=False))
    found = states(recorder)
    assert {state.get("file") for state in found} == {None, b"abc"}


def test_bytes_that_were_not_synced_may_be_torn_or_zeros(tmp_path):
    def write(durable):
        handle = durable.os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT, 0o666)
        durable.sync_folder(tmp_path)
        durable.os.write(handle, b"abc")
        durable.os.close(handle)

    found = {state["file"] for state in states(recorded(tmp_path, write))}
    assert found >= {b"", b"abc", b"a", b"ab", b"\0\0\0", b"a\0\0"}


def test_an_unlink_and_a_rename_may_be_kept_without_each_other(tmp_path):
    def change(durable):
        for name in ("one", "two"):
            durable.write_file(tmp_path / name, [name.encode()])
        durable.os.unlink(tmp_path / "one")
        durable.os.replace(tmp_path / "two", tmp_path / "three")

    found = {frozenset(state) for state in states(recorded(tmp_path, change))}
    assert found == {
        frozenset(names) for names in (("one", "two"), ("two",), ("three",), ("one", "three"))
    }  # fmt: skip


def test_a_stopped_process_changes_nothing_more(tmp_path):
    names = system.count(lambda: workload.collect(tmp_path / "whole"), lock=True)
    assert {"open", "write", "fsync", "close", "replace", "unlink", "mkdir", "ftruncate", "pwrite"} == set(names)
    with system.installed(system.stopping(30)), pytest.raises(system.Killed):
        workload.collect(tmp_path / "store")
    left = workload.tree(tmp_path / "store")
    assert any(name.endswith(".part") for name in left) or "seal.json" not in left
    Store.writing(tmp_path / "store").close()  # the lock was given back


def test_a_strace_that_cannot_attach_is_a_reason_not_a_pass(monkeypatch):
    monkeypatch.setattr(traced, "missing", lambda: "ptrace is forbidden")
    outcome = traced.run(10)
    assert (outcome.points, outcome.not_run) == (0, "ptrace is forbidden")


def test_missing_says_that_strace_is_not_installed(monkeypatch):
    monkeypatch.setattr(traced.shutil, "which", lambda name: None)
    traced.missing.cache_clear()
    try:
        assert traced.missing() == "strace is not installed"
    finally:
        traced.missing.cache_clear()


def test_missing_repeats_what_strace_says(monkeypatch, tmp_path):
    fake = tmp_path / "strace"
    fake.write_text('#!/bin/sh\necho "strace: attach: Operation not permitted" >&2\nexit 1\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    traced.missing.cache_clear()
    try:
        assert "not permitted" in traced.missing()
    finally:
        traced.missing.cache_clear()


def test_points_of_strace_are_distinct_and_of_every_call():
    counts = {call: 5 for call in traced.CALLS}
    found = list(traced._points(200, counts))
    assert len(set(found)) == 200
    assert {call for call, _, _ in found} == set(traced.CALLS)
    assert {action for _, action, _ in found} == set(traced.ACTIONS)
    assert {at for _, _, at in found} == {1, 2, 3, 4, 5}
    assert len(list(traced._points(10**4, {"flock": 1}))) == len(traced.ACTIONS)
