"""One round of a collection by several processes: each collects a pass, rank 0 alone commits them, in the order of the grid.

Three messages of each rank, all of them seen by all::

    collected    how many samples each of its passes has, so that the others know the numbers of their shards and lines
    staged       what the journal is to say of its shards, which are synced now
    committed    from rank 0: how many lines the journal has taken

A rank that fails tells so in place of the rest. What lies before it in the grid is committed, as one process would have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from . import agreement, interruption, shards, store_contents, store_staging
from .keeping import OnDisk
from .layout import QKOVConfig
from .samples import Sample
from .shards import Entry
from .store import pass_record
from .store_staging import Staged


@dataclass(frozen=True)
class Outcome:
    """What a round has committed, the same on all ranks, and what ended it.

    Attributes:
        samples: As stored. skipped: ``{id: reason}`` of those left out.
        reports: What each rank has told of its error, or None. error: That of this rank, or None.
    """

    samples: list
    skipped: dict
    reports: list
    error: BaseException | None


@dataclass(frozen=True)
class Rounds:
    """The rounds of one call.

    Attributes:
        ranks: The processes. disk: The store; of rank 0 it can be written to.
        task, loss: Their names. config: Where the heads are.
        collect: ``collect(cell, left_out)`` yields the samples of each pass of a cell, and adds what it leaves out.
        heard: Asked whether a signal wants this rank to stop: its name or "". stop: What all ranks have heard.
    """

    ranks: agreement.Agreement
    disk: OnDisk
    task: str
    loss: str
    config: QKOVConfig
    collect: Callable
    heard: Callable
    stop: interruption.Interruption

    def run(self, cells: Any) -> Outcome:
        """Collect and commit at most as many cells as there are ranks, one each."""
        rank = self.ranks.rank
        found, error = self._collected(cells[rank] if rank < len(cells) else None)
        said = self._exchange("collect", [_announced(one) for one in found], error)
        counts = [counts for counts, _ in said]
        needed = rank <= _last_good([report for _, report in said])
        lines: list[Any] = []
        try:
            error = self._staged(found if needed else [], counts, lines, error)
            said = self._exchange("stage", lines, error)
            reports = [report for _, report in said]
            every = [line for lines_of_it, _ in said[: _last_good(reports) + 1] for line in lines_of_it]
            kept, fault, error = self._committed(every, error)
        except BaseException:
            self._discard(lines)
            raise
        if fault or any(reports):
            self._discard(lines)
        return self._outcome(every[:kept], [fault or reports[0], *reports[1:]], error)

    def _collected(self, cell: Any) -> tuple[list[Any], BaseException | None]:
        """Collect a cell; return its passes and, as pairs, those left out, in order, and the error that ended it."""
        found: list[Any]
        left_out: dict[Any, str]
        found, left_out, told = [], {}, set(self.disk.store.contents.skipped.get(self.task, {}))

        def note() -> None:
            found.extend((name, reason) for name, reason in left_out.items() if name not in told)
            told.update(left_out)

        with agreement.Held() as held:
            for samples in self.collect(cell, left_out) if cell else ():
                note()
                found.append(samples)
            note()
        return found, held.error

    def _staged(
        self,
        found: Sequence[Sequence[Any]],
        counts: Sequence[Sequence[int]],
        lines: list[Any],
        error: BaseException | None,
    ) -> BaseException | None:
        """Write the shards of this rank; add the lines that it asks for, as far as it comes, and return its error."""
        store = self.disk.store
        before = [count for of_rank in counts[: self.ranks.rank] for count in of_rank]
        commit, first = max(1, store.contents.num_lines) + len(before), store.contents.next_number + sum(before)
        settings: dict[str, Any] = {"dtype": self.disk.dtype, "form": self.disk.settings["store_form"]}
        with agreement.Held(error) as held:
            for one in found:
                if isinstance(one, tuple):
                    lines.append({"id": one[0], "reason": one[1]})
                    continue
                numbers: dict[str, Any] = {"commit": commit + len(lines), "first": first}
                staged = store_staging.stage(
                    store.folder,
                    self.task,
                    self.loss,
                    one,
                    self.config,
                    **numbers,
                    **settings,
                )
                lines.append({"staged": [asdict(shard) for shard in staged]})
                first += len(one)
        return held.error

    def _committed(
        self, lines: Sequence[Mapping[str, Any]], error: BaseException | None
    ) -> tuple[int, Any, BaseException | None]:
        """Have rank 0 write lines down; return how many it has written, what it tells of an error, and this rank's."""
        kept, fault = 0, None
        if self.ranks.first:
            with agreement.Held() as held:
                for line in lines:
                    self._commit(line)
                    kept += 1
            fault, error = held.error, held.error or error
        said = self.ranks.exchange(f"commit passes of task {self.task!r}", [kept, agreement.told(fault), self.heard()])
        self.stop.name = next((f"{name} (rank {rank})" for rank, (*_, name) in enumerate(said) if name), "")
        kept, fault, _ = said[0]
        if not self.ranks.first:
            for line in lines[:kept]:
                self.follow(self._record(line))
        return kept, fault, error

    def _commit(self, line: Mapping[str, Any]) -> None:
        store = self.disk.started()
        if "staged" in line:
            store.adopt(self.task, self.loss, _shards(line))
        else:
            store.add_skipped(self.task, line["id"], line["reason"])

    def _record(self, line: Mapping[str, Any]) -> dict[str, Any]:
        if "staged" in line:
            return pass_record(self.task, self.loss, [one.entry for one in _shards(line)])
        return {"kind": "skipped", "task": self.task, **line}

    def follow(self, record: Mapping[str, Any]) -> None:
        """Take note, on a rank that does not write, of a line that rank 0 has written."""
        contents = self.disk.store.contents
        if contents.header is None:
            contents.header, contents.num_lines = self.disk.header, 1
        store_contents.take({"n": contents.num_lines, **record}, contents)
        contents.num_lines += 1

    def _outcome(self, lines: Sequence[Mapping[str, Any]], reports: list[Any], error: BaseException | None) -> Outcome:
        folder = self.disk.folder
        samples = [shards.stored_sample(folder, one.entry, self.task) for line in lines for one in _shards(line)]
        skipped = {line["id"]: line["reason"] for line in lines if "id" in line}
        return Outcome(samples, skipped, reports, error)

    def _exchange(self, doing: str, value: Any, error: BaseException | None) -> list[Any]:
        return self.ranks.exchange(f"{doing} a pass of task {self.task!r}", [value, agreement.told(error)])

    def _discard(self, lines: Sequence[Mapping[str, Any]]) -> None:
        store_staging.discard(self.disk.folder, [one for line in lines for one in _shards(line)])


def _announced(found: list[Sample] | tuple) -> int:
    """How many shards a line will have: 0 for that of a sample left out."""
    return 0 if isinstance(found, tuple) else len(found)


def _last_good(reports: Sequence[Any]) -> int:
    """The last rank whose passes may be committed: the first that has failed, or else the last."""
    return next((rank for rank, report in enumerate(reports) if report), len(reports) - 1)


def _shards(line: Mapping[str, Any]) -> list[Staged]:
    return [Staged(Entry(**one["entry"]), one["part"]) for one in line.get("staged", ())]
