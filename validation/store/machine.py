"""Any order of operations against a dictionary: Hypothesis chooses what is done to a store, and when it is interrupted.

The dictionary holds what must be there. Samples leave it only where their shard was damaged and a repair has named them.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import stateful, strategies

from qkov import shards, store_repair
from qkov.errors import OptionError, QKOVError, SampleIdError, SealedStoreError, StoreBusyError, StoreWarning
from qkov.store import Store

from . import damage, workload
from .outcomes import Outcome

NAME = "machine"
TASKS = strategies.sampled_from(("alpha", "beta"))
IDS = strategies.lists(strategies.integers(0, 12), min_size=1, max_size=3, unique=True)


def expect(condition: bool, what: str) -> None:
    """Fail with what was found."""
    if not condition:
        raise AssertionError(what)


class StoreMachine(stateful.RuleBasedStateMachine):
    """A store and what it must hold: ``samples`` by task, ``skipped``, whether it is sealed and whether it is open."""

    def __init__(self) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.folder = self.root / "store"
        self.samples: dict[str, set[Any]] = {}
        self.skipped: set[tuple[str, Any]] = set()
        self.sealed, self.damaged, self.warned = False, set(), False
        self.store = Store.writing(self.folder)
        self.store.create(workload.HEADER)

    def teardown(self) -> None:
        """Close and remove the store."""
        if self.store is not None:
            self.store.close()
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def open(self) -> bool:
        """Whether this process may write."""
        return self.store is not None and self.store.writable

    @property
    def whole(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged

    @stateful.precondition(lambda self: self.open and not self.sealed)
    @stateful.rule(task=TASKS, ids=IDS)
    def commit(self, task, ids):
        """A pass is kept, one with a known id refused, and leaves all as it was."""
        known = self.samples.get(task, set())
        if known & set(ids):
            before = workload.tree(self.folder)
            try:
                workload.commit(self.store, task, ids)
            except SampleIdError:
                expect(workload.tree(self.folder) == before, "a refused pass changed the store")
            else:
                raise AssertionError("an id was committed twice")
            return
        workload.commit(self.store, task, ids)
        self.samples.setdefault(task, set()).update(ids)

    @stateful.precondition(lambda self: self.open and not self.sealed and any(self.samples.values()))
    @stateful.rule(place=strategies.integers(0, 50))
    def commit_again(self, place):
        """A known id beside a new one is refused."""
        every = [(task, one) for task, found in sorted(self.samples.items()) for one in sorted(found)]
        task, one = every[place % len(every)]
        self.commit(task, [max(self.samples[task]) + 1, one])

    @stateful.precondition(lambda self: self.whole and self.sealed)
    @stateful.rule(task=TASKS)
    def commit_to_sealed(self, task):
        """A sealed store takes nothing."""
        if not self.open:
            self.reopen()
        with contextlib.suppress(SealedStoreError):
            workload.commit(self.store, task, [99])
            raise AssertionError("a sealed store took a pass")

    @stateful.precondition(lambda self: not self.open)
    @stateful.rule(task=TASKS)
    def commit_to_closed(self, task):
        """A store that was given back takes nothing."""
        if self.store is not None:
            with contextlib.suppress(OptionError, SealedStoreError):
                workload.commit(self.store, task, [98])
                raise AssertionError("a closed store took a pass")

    @stateful.precondition(lambda self: self.open and not self.sealed)
    @stateful.rule(task=strategies.sampled_from(("empty", "alpha")))
    def add_task(self, task):
        """A task without samples is kept."""
        self.store.add_task(task)
        self.samples.setdefault(task, set())

    @stateful.precondition(lambda self: self.open and not self.sealed)
    @stateful.rule(task=TASKS, one=strategies.integers(20, 23))
    def skip(self, task, one):
        """A sample that was left out is kept in mind."""
        self.store.add_skipped(task, one, "asked for")
        self.skipped.add((task, one))

    @stateful.precondition(lambda self: self.open and self.whole)
    @stateful.rule()
    def seal(self):
        """Sealing gives the lock back."""
        self.store.seal()
        self.sealed = True
        expect(not self.store.writable, "a sealed store keeps its lock")

    @stateful.precondition(lambda self: self.store is not None and self.whole and self.sealed)
    @stateful.rule()
    def unseal(self):
        """The seal comes off."""
        self.store.unseal()
        self.sealed, self.warned = False, False

    @stateful.precondition(lambda self: self.open)
    @stateful.rule()
    def close(self):
        """Give it back."""
        self.store.close()

    @stateful.precondition(lambda self: not self.open and self.whole)
    @stateful.rule()
    def reopen(self):
        """Go on; everything is there."""
        self.store = Store.writing(self.folder)
        self.warned = False
        self.compare(self.store)

    @stateful.precondition(lambda self: self.open)
    @stateful.rule()
    def second_writer(self):
        """Nobody else may write meanwhile."""
        try:
            other = Store.writing(self.folder)
        except StoreBusyError:
            return
        other.close()
        raise AssertionError("two writers at a time")

    @stateful.precondition(lambda self: self.open and not self.sealed)
    @stateful.rule(task=TASKS, ids=IDS, half=strategies.booleans(), orphans=strategies.integers(0, 3))
    def crash(self, task, ids, half, orphans):
        """The process ends in the middle of a pass: a part of a file, some shards, half a line."""
        size, lines, first = self.store.contents.size, self.store.contents.num_lines, self.store.contents.next_number
        self.store.close()
        ids = [one for one in ids if one not in self.samples.get(task, set())]
        (self.folder / "shards" / ".00000000-0.safetensors.0.part").write_bytes(b"half")
        for place, one in enumerate(ids[:orphans]):
            name = shards.file_name(first + place, task, one)
            where = shards.Place(task, "loss", lines, place, len(ids), name)
            _, data = shards.encode(workload.sample(task, one), where, workload.config(), None, "smaller")
            (self.folder / "shards" / name).write_bytes(data)
        if half and orphans >= len(ids):
            with open(self.folder / "journal", "ab") as stream:
                stream.write(b'12345678 {"n":' + str(lines).encode())
        self.warned = True
        expect((self.folder / "journal").stat().st_size >= size, "the journal shrank")
        if ids and orphans >= len(ids):  # all of the pass is there: it counts
            self.samples.setdefault(task, set()).update(ids)
        self.store = Store.writing(self.folder)
        self.warned = False
        self.compare(self.store)

    @stateful.precondition(lambda self: self.open and not self.sealed and any(self.samples.values()))
    @stateful.rule()
    def lose_last_line(self):
        """The last line of the journal is torn, although it was acknowledged; what it listed stays."""
        self.store.close()
        path = self.folder / "journal"
        data = path.read_bytes()
        last = data[data[:-1].rfind(b"\n") + 1 :]
        if b'"kind":"pass"' in last:
            path.write_bytes(data[: -len(last) // 2])
        self.store = Store.writing(self.folder)
        self.compare(self.store)

    @stateful.precondition(lambda self: self.whole and any(self.samples.values()))
    @stateful.rule(place=strategies.integers(0, 50), bit=strategies.integers(0, 10**6))
    def damage(self, place, bit):
        """A bit of a shard flips."""
        if self.store is not None:
            self.store.close()
            self.store = None
        every = store_repair.store_contents.read(self.folder).entries
        task, entry = every[place % len(every)]
        path = self.folder / "shards" / entry.file
        data = path.read_bytes()
        path.write_bytes(damage.flip(bit % (8 * len(data)))(data))
        self.damaged = {(task, entry.sample_id)}

    @stateful.rule()
    def verify(self):
        """Verification names exactly what is damaged."""
        report = store_repair.verify_store(self.folder)
        expect(set(report.damaged) == self.damaged, f"verified {report.damaged}, damaged is {self.damaged}")
        expect(bool(report.problems) == bool(self.damaged), f"problems: {report.problems}")

    @stateful.precondition(lambda self: not self.open)
    @stateful.rule()
    def repair(self):
        """A repair names what is lost and keeps the rest."""
        report = store_repair.repair_store(self.folder)
        expect(set(report.damaged) == self.damaged, f"repair lost {report.damaged}, damaged is {self.damaged}")
        for task, one in self.damaged:
            self.samples[task].discard(one)
            self.sealed = False
        self.damaged = set()
        self.store = Store.writing(self.folder)
        expect(
            self.store.sealed == self.sealed, f"sealed is {self.store.sealed} after a repair, should be {self.sealed}"
        )
        self.compare(self.store)

    @stateful.precondition(lambda self: self.whole)
    @stateful.rule()
    def read(self):
        """A reader, beside a writer or not, finds what was committed and every number of it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if self.warned else "error", StoreWarning)
            self.compare(Store.reading(self.folder, allow_unsealed=True))

    def compare(self, store: Store) -> None:
        """What a store holds is what the dictionary says, every number of it."""
        held = {task: set(entries) for task, entries in store.contents.tasks.items()}
        expect(held == self.samples, f"holds {held}, should hold {self.samples}")
        skipped = {(task, one) for task, found in store.contents.skipped.items() for one in found}
        expect(skipped == self.skipped, f"skipped {skipped}, should be {self.skipped}")
        expect(store.sealed == self.sealed, f"sealed is {store.sealed}, should be {self.sealed}")
        for task, samples in store.samples().items():
            for name, one in samples.items():
                expect(workload.values(one) == expected(task, name), f"{name!r} of {task!r} is another sample")


_known: dict[tuple[str, Any], Any] = {}


def expected(task: str, name: Any) -> Any:
    """What a sample reads back as, from a store of its own; all are made before any fault is planted."""
    if not _known:
        for one_task in ("alpha", "beta"):
            with workload.scratch() as folder:
                store = Store.writing(folder / "store")
                store.create(workload.HEADER)
                for one in range(13):
                    workload.commit(store, one_task, [one])
                store.close()
                _known.update(
                    {(one_task, one): value for one, value in workload.read_all(folder / "store")[one_task].items()}
                )
    return _known[task, name]


def run(examples: int, *, steps: int = 30, stop: bool = False, seed: int | None = None) -> Outcome:
    """Try so many orders of so many steps; Hypothesis ends at the first finding, and shrinks it unless asked to stop."""
    expected("alpha", 0)
    outcome = Outcome(NAME, stop=stop)
    phases = [hypothesis.Phase.generate] if stop else [hypothesis.Phase.generate, hypothesis.Phase.shrink]
    settings = hypothesis.settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None, derandomize=seed is None,
        phases=phases, suppress_health_check=list(hypothesis.HealthCheck), print_blob=False, report_multiple_bugs=False,
    )  # fmt: skip
    with workload.scratch():  # for its quiet
        try:
            stateful.run_state_machine_as_test(StoreMachine, settings=settings)
        except (AssertionError, QKOVError) as error:
            outcome.add("some order of steps", [("wrong", f"{type(error).__name__}: {error}")])
        except OSError as error:
            outcome.add("some order of steps", [("untold", f"{type(error).__name__}: {error}")])
    outcome.add("", [])
    outcome.points = examples
    return outcome
