"""Rounds of several ranks: whatever ends one, the store is that of one process; planted faults are noticed."""

import dataclasses
import errno
import os
import threading

import pytest

from qkov import durable, errors, rounds, shards, store_contents, store_staging
from validation import rank_failures, rank_threads
from validation.faults.planting import planted
from validation.rank_failures import collect, reference
from validation.store import system, workload


def passed(outcome, points):
    assert outcome.passed, str(outcome)
    assert outcome.points == points


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_any_number_of_ranks_leaves_the_files_of_one_process(tmp_path, size):
    rank_threads.succeeded(rank_threads.run(size, lambda ranks, link: collect(ranks, tmp_path / "s")))
    assert workload.tree(tmp_path / "s") == reference()[0]


def test_killed_ranks_lose_nothing():
    passed(rank_failures.kills(120), 120)


def test_power_failures_lose_nothing():
    passed(rank_failures.power(60), 60)


# An error of one rank


def failing_at(folder, where, size=3, error=None):
    """Collect, where the rank that collects a cell fails; return what ended each rank."""

    def fail(task, cell):
        if cell == where:
            raise error or errors.NonFiniteError("sample 3 is not finite")

    return rank_threads.run(size, lambda ranks, link: collect(ranks, folder, fail=fail))


def test_an_error_of_one_rank_is_raised_on_all_and_what_lies_before_it_is_kept(tmp_path):
    found = failing_at(tmp_path / "s", (2,), size=3)  # rank 1 of the first round
    assert [type(one) for one in found] == [errors.NonFiniteError] * 3
    assert [str(one).startswith("rank 1: ") for one in found] == [True, False, True]
    contents = store_contents.read(tmp_path / "s")
    assert list(contents.tasks["alpha"]) == [0, 1]
    assert list(contents.unlisted) == []
    assert sorted(path.name for path in (tmp_path / "s" / "shards").iterdir()) == sorted(
        entry.file for _, entry in contents.entries
    )
    rank_threads.succeeded(rank_threads.run(2, lambda ranks, link: collect(ranks, tmp_path / "s")))
    assert workload.tree(tmp_path / "s") == reference()[0]


def test_an_error_that_is_not_ours_is_told_to_the_others(tmp_path):
    found = failing_at(tmp_path / "s", (2,), size=2, error=ZeroDivisionError("in the loss"))
    assert isinstance(found[1], ZeroDivisionError)
    assert isinstance(found[0], errors.RankFailedError)
    assert "rank 1 failed: ZeroDivisionError: in the loss" in str(found[0])


def test_every_rank_that_fails_raises_its_own_error(tmp_path):
    def fail(task, cell):
        raise errors.BatchError(f"cell {cell}")

    found = rank_threads.run(3, lambda ranks, link: collect(ranks, tmp_path / "s", fail=fail))
    assert [str(one) for one in found] == ["cell (0, 1)", "cell (2,)", "cell (3, 4)"]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("primitive", ["open", "write", "fsync", "replace"])
def test_a_disk_that_refuses_one_rank_ends_all_and_nothing_is_lost(tmp_path, rank, primitive):
    calls = []

    def refuse(name, call, arguments):
        calls.append(name)
        if name == primitive and len(calls) > (60 if rank == 0 else 3):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return call(*arguments)

    with system.installed(rank_threads.by_rank({rank: refuse})):
        found = rank_threads.run(2, lambda ranks, link: collect(ranks, tmp_path / "s"))
    assert [type(one) for one in found] == [errors.DiskError] * 2
    assert f"rank {rank}: " in str(found[1 - rank])
    assert f"rank {rank}: " not in str(found[rank])
    assert rank_failures.judge(tmp_path / "s", set(), 3) == []


def test_a_folder_that_rank_0_does_not_share_is_refused_at_once(tmp_path):
    folders = [tmp_path / "here", tmp_path / "there"]
    folders[1].mkdir()
    found = rank_threads.run(2, lambda ranks, link: collect(ranks, folders[ranks.rank]))
    assert [type(one) for one in found] == [errors.RanksDifferError] * 2
    assert "not the one in which rank 0 has opened" in str(found[1])
    assert list(folders[1].iterdir()) == []


def test_a_shard_that_rank_0_does_not_see_is_not_listed(tmp_path):
    def elsewhere(original):
        def stage(folder, *arguments, **options):
            found = original(folder, *arguments, **options)
            if arguments[2][0].sample_id == 2:  # of rank 1
                (folder / "shards" / found[0].part).unlink()
            return found

        return stage

    with planted("store_staging.stage", elsewhere):
        found = rank_threads.run(2, lambda ranks, link: collect(ranks, tmp_path / "s"))
    assert [type(one) for one in found] == [errors.DiskError] * 2
    assert "is not there for the one that commits it" in str(found[0])
    assert list(store_contents.read(tmp_path / "s").tasks["alpha"]) == [0, 1]


def test_a_store_that_is_in_use_is_refused_on_all_ranks(tmp_path):
    with planted("store_lock.acquire", lambda original: busy):
        found = rank_threads.run(2, lambda ranks, link: collect(ranks, tmp_path / "s"))
    assert [type(one) for one in found] == [errors.StoreBusyError] * 2


def busy(folder):
    raise errors.StoreBusyError("in use")


# Staging


def test_staged_shards_are_no_part_of_a_store_until_adopted(tmp_path):
    rank_failures.one_process(tmp_path / "s")
    before = workload.tree(tmp_path / "s")
    staged = store_staging.stage(
        tmp_path / "s", "alpha", "loss", [workload.sample("alpha", 99)], workload.config(), commit=50, first=60,
        dtype=None, form="smaller",
    )  # fmt: skip
    assert store_contents.read(tmp_path / "s").unlisted == ()
    assert workload.read_all(tmp_path / "s") == reference()[1]
    store_staging.discard(tmp_path / "s", staged)
    assert workload.tree(tmp_path / "s") == before
    store_staging.discard(tmp_path / "s", staged)  # gone already


def test_a_refused_stage_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "shards").mkdir()
    original, calls = shards.encode, []

    def encode(*arguments):
        calls.append(None)
        if len(calls) == 2:
            raise errors.PrecisionError("too large")
        return original(*arguments)

    monkeypatch.setattr(shards, "encode", encode)
    samples = [workload.sample("alpha", one) for one in (0, 1)]
    options = {"commit": 1, "first": 0, "dtype": None, "form": "smaller"}
    with pytest.raises(errors.PrecisionError):
        store_staging.stage(tmp_path, "alpha", "loss", samples, workload.config(), **options)
    assert list((tmp_path / "shards").iterdir()) == []


# Planted faults, and what must notice each


def reversed_lines(original):
    """Lists passes in another order than that of the grid, as in order of arrival."""
    return lambda self, lines, error: original(self, lines[::-1], error)


def own_numbers(original):
    """Numbers shards and lines without regard to what other ranks have."""
    return lambda self, found, counts, lines, error: original(self, found, [[]] * len(counts), lines, error)


def behind_a_failure(_original):
    """Commits what lies behind a rank that has failed."""
    return lambda reports: len(reports) - 1


def named_by_its_rank(original):
    """Gives shards their final names on the rank that has made them, so that a crash leaves passes out of order."""

    def stage(folder, *arguments, **options):
        found = original(folder, *arguments, **options)
        for one in found:
            durable.rename(folder / "shards" / one.part, folder / "shards" / one.entry.file)
        return [dataclasses.replace(one, part=one.entry.file) for one in found]

    return stage


STAGING = threading.local()  # ranks are threads here: what is planted for all of them asks which one calls


def unsynced(original):
    """Tells that shards are staged before they are synced."""

    def stage(*arguments, **options):
        STAGING.now = True
        try:
            return original(*arguments, **options)
        finally:
            STAGING.now = False

    return stage


def unsynced_while_staging(original):
    def write_file(path, parts, *, sync_name=True):
        if not getattr(STAGING, "now", False):
            return original(path, parts, sync_name=sync_name)
        handle = durable.os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        for part in parts:
            durable._write_all(handle, part)
        durable.os.close(handle)

    return write_file


def nothing_followed(_original):
    """Other ranks than 0 do not learn what was committed."""
    return lambda self, record: None


@pytest.mark.parametrize(
    ("target", "wrong", "harness"),
    [
        ("rounds.Rounds._committed", reversed_lines, "bytes"),
        ("rounds.Rounds._staged", own_numbers, "bytes"),
        ("rounds.Rounds.follow", nothing_followed, "bytes"),
        ("rounds._last_good", behind_a_failure, "failure"),
        ("store_staging.stage", named_by_its_rank, "kills"),
        ("store_staging.stage", unsynced, "power"),
    ],
)
def test_a_planted_fault_is_noticed(tmp_path, target, wrong, harness):
    reference()
    with planted(target, wrong), planted("durable.write_file", unsynced_while_staging):
        if harness == "kills":
            assert not rank_failures.kills(300, stop=True).passed
        elif harness == "power":
            assert not rank_failures.power(300, stop=True).passed
        elif harness == "failure":
            with pytest.raises(AssertionError):
                test_an_error_of_one_rank_is_raised_on_all_and_what_lies_before_it_is_kept(tmp_path)
        else:
            found = rank_threads.run(3, lambda ranks, link: collect(ranks, tmp_path / "s"), timeout=20)
            failed = [one for one in found if isinstance(one, BaseException)]
            assert all(isinstance(one, errors.QKOVError) for one in failed)
            assert failed or workload.tree(tmp_path / "s") != reference()[0]


def test_an_outcome_is_the_same_on_all_ranks(tmp_path):
    outcomes = {}
    original = rounds.Rounds.run

    def run(self, cells):
        done = original(self, cells)
        outcomes.setdefault(self.ranks.rank, []).append(([one.sample_id for one in done.samples], done.skipped))
        return done

    with planted("rounds.Rounds.run", lambda _: run):
        rank_threads.succeeded(rank_threads.run(3, lambda ranks, link: collect(ranks, tmp_path / "s")))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    assert outcomes[0][0] == ([0, 1, 2, 3, 4], {})
    assert outcomes[0][1] == ([5, 6, 7, 8], {"bad": "not finite"})
