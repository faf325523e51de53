"""Ranks that are killed, and machines that lose power, at every place of a shared collection; any number of ranks goes on.

Samples are those of :mod:`validation.store.workload`, made without a model; what must be on disk in the end is what one
process, by way of ``Store.commit``, puts there.
"""

import functools
import itertools
import random
import threading
import warnings
from collections.abc import Mapping

from qkov import interruption, rounds, shared_keeping, store_contents
from qkov.errors import QKOVError, RankFailedError, StoreNotFoundError, UnsealedStoreError
from qkov.store import Store
from validation import rank_threads
from validation.store import system, workload
from validation.store.disk import Recorder
from validation.store.outcomes import Outcome

# Passes of two tasks in the order of the grid; a string is a sample that is left out.
GRID = (("alpha", ((0, 1), (2,), (3, 4), ("bad", 5), (6, 7), (8,))), ("beta", (("x", "y"), ("z",), ("w",), ("v", "u"))))
LEFT_OUT = "bad"
SIZES = (2, 3)
HEADER = {**workload.HEADER, "settings": {"store_form": "smaller", "store_dtype": None}}


def one_process(folder):
    """Collect without ranks."""
    store = Store.writing(folder)
    store.create(HEADER)
    for task, cells in GRID:
        for cell in cells:
            if LEFT_OUT in cell:
                store.add_skipped(task, LEFT_OUT, "not finite")
            workload.commit(store, task, [one for one in cell if one != LEFT_OUT])
    store.seal()


@functools.cache
def reference():
    """Files that one process leaves, its numbers, and ``(task, id)`` in order."""
    with workload.scratch() as folder:
        one_process(folder / "store")
        contents = store_contents.read(folder / "store")
        order = [(task, entry.sample_id) for task, entry in contents.entries]
        return workload.tree(folder / "store"), workload.read_all(folder / "store"), order


def collect(ranks, folder, *, acked=None, fail=lambda task, cell: None):
    """Do the part of one rank.

    Args:
        ranks: A ``distributed.Ranks``. folder: The store. acked: Takes ``(task, id)`` of what this rank knows to be committed.
        fail: Called before a cell is collected.
    """
    acked = set() if acked is None else acked
    kept = shared_keeping.SharedOnDisk(ranks.together, folder, HEADER["settings"])
    try:
        kept.disk.header = HEADER
        if kept.sealed:
            return
        for task, cells in GRID:

            def made(cell, left_out, task=task):
                fail(task, cell)
                if LEFT_OUT in cell:
                    left_out[LEFT_OUT] = "not finite"
                yield [workload.sample(task, one) for one in cell if one != LEFT_OUT]

            known = kept.store.contents.tasks.get(task, {})
            left = [tuple(one for one in cell if one not in known) for cell in cells]
            left = [cell for cell in left if cell and cell != (LEFT_OUT,)]
            turns = rounds.Rounds(
                ranks.together,
                kept.disk,
                task,
                "loss",
                workload.config(),
                made,
                lambda: "",
                interruption.Interruption(),
            )
            for first in range(0, len(left), ranks.size):
                done = turns.run(left[first : first + ranks.size])
                acked.update((task, one.sample_id) for one in done.samples)
                ranks.together.raise_first(done.reports, done.error)
        kept.seal()
    finally:
        kept.close()


def kills(points, *, stop=False):
    """Kill one rank so many times, at a change of a file or while it collects; go on with 1, 2 or 3."""
    outcome = Outcome("ranks killed", stop=stop)
    with workload.scratch() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number, (size, victim, at) in enumerate(itertools.islice(_victims(folder), points)):
            workload.restore(folder / "store", {})
            acked = _killed(folder / "store", size, victim, at)
            findings = judge(folder / "store", acked, 1 + number % 3)
            if outcome.add(f"{size} ranks, rank {victim} dies at {at}", findings):
                break
    return outcome


def _victims(folder):
    """``(ranks, who dies, where)``: each change of a file that each rank makes, and each of its passes; over and over."""
    places = []
    for size in SIZES:
        counts = _counted(folder / "counted", size)
        for victim in range(size):
            places += [(size, victim, at) for at in range(counts[victim])]
            places += [(size, victim, cell) for _, cells in GRID for cell in cells]
    random.Random(0).shuffle(places)
    return itertools.cycle(places)


def _counted(folder, size):
    """How many changes of files each rank makes."""
    counts, lock = [0] * size, threading.Lock()
    workload.restore(folder, {})

    def counting(rank):
        def act(name, call, arguments):
            with lock:
                counts[rank] += name != "close"
            return call(*arguments)

        return act

    with system.installed(rank_threads.by_rank({rank: counting(rank) for rank in range(size)})):
        rank_threads.succeeded(rank_threads.run(size, lambda ranks, link: collect(ranks, folder)))
    return counts


def _killed(folder, size, victim, at):
    """Collect until a rank dies; return what was acknowledged to any rank."""
    acked, acts = set(), {}

    def work(ranks, link):
        if ranks.rank == victim and isinstance(at, int):
            acts[rank_threads.name_of(victim)] = rank_threads.dying(link, at)

        def fail(task, cell):
            if ranks.rank == victim and cell == at:
                link.die()

        collect(ranks, folder, acked=acked, fail=fail)

    def act(name, call, arguments):
        found = acts.get(threading.current_thread().name)
        return call(*arguments) if found is None else found(name, call, arguments)

    with system.installed(act):
        for error in rank_threads.run(size, work):
            if not isinstance(error, None.__class__ | system.Killed | RankFailedError):
                raise error
    return acked


def power(points, *, stop=False, seed=0):
    """Cut the power so many times, of the machine with the disk, while 2 or 3 ranks collect; go on with 1, 2 or 3."""
    outcome, draw = Outcome("ranks without power", stop=stop), random.Random(seed)
    with workload.scratch() as root, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = [_recorded(root, size) for size in SIZES]
        for number in range(points):
            moments = runs[number % len(runs)]
            disk, acked = moments[draw.randrange(len(moments))]
            state = {name.removeprefix("store/"): data for name, data in disk.crashed(draw).items()}
            _put(root / "store", state)
            findings = judge(root / "store", set(acked), 1 + number % 3)
            if outcome.add(f"{SIZES[number % len(SIZES)]} ranks, draw {number}", findings):
                break
    return outcome


def _put(folder, state: Mapping):
    workload.restore(folder, {name: data for name, data in state.items() if data is not None and name != "lock"})
    for name, data in state.items():
        if data is None:
            (folder / name if name != "store" else folder).mkdir(parents=True, exist_ok=True)


def _recorded(root, size):
    """Moments of an undisturbed collection by so many ranks."""
    workload.restore(root / "store", {})
    recorder, lock = Recorder(root), threading.RLock()

    class Acked(set):
        def update(self, found):
            with lock:
                recorder.acked |= set(found)
                recorder.note()

    def act(name, call, arguments):
        with lock:
            return recorder.act(name, call, arguments)

    with system.installed(act):
        rank_threads.succeeded(
            rank_threads.run(size, lambda ranks, link: collect(ranks, root / "store", acked=Acked()))
        )
    return recorder.moments


def judge(folder, acked, size):
    """What a failure must leave: all that was acknowledged, in order, and a store that any number of ranks can go on with."""
    return _judge_reading(folder, acked) or _judge_resuming(folder, acked, size)


def _judge_reading(folder, acked):
    try:
        contents = store_contents.read(folder)
        found = workload.read_all(folder)
    except (StoreNotFoundError, UnsealedStoreError) as error:
        return [("lost", f"{type(error).__name__} although samples were acknowledged")] if acked else []
    except QKOVError as error:
        return [("wrong", f"{type(error).__name__} after a failure: {error}")]
    order = [(task, entry.sample_id) for task, entry in contents.entries]
    findings = [("lost", f"{one} was acknowledged") for one in sorted(acked - set(order), key=str)]
    if order != reference()[2][: len(order)]:
        findings.append(("wrong", "samples are not in the order of the grid"))
    return findings + workload.differing(found, reference()[1])


def _judge_resuming(folder, acked, size):
    try:
        rank_threads.succeeded(rank_threads.run(size, lambda ranks, link: collect(ranks, folder)))
    except QKOVError as error:
        return [("wrong", f"{size} ranks cannot go on, {type(error).__name__}: {error}")]
    found, expected = workload.tree(folder), reference()[0]
    names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    return [("wrong", f"ends with other files: {', '.join(names)}")] if names else []
