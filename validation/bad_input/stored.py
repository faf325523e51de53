"""What can happen to samples on disk: refusals of the system, damage, other processes, kills.

Every case makes a store of its own with three samples, spoils something, and compares all files before and after.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import shutil
import signal
import tempfile
from pathlib import Path

import qkov
from qkov import durable, errors, losses, resources, store_contents, store_repair

from .ground import IDS, LENGTHS, build_batch, build_model
from .registry import case as situation
from .registry import require

GROUP = "Samples on disk"
case = functools.partial(situation, group=GROUP)
LOST = 'Run "python -m qkov store verify'


@contextlib.contextmanager
def made(*, sealed=True):
    """A folder with a store of task "math"."""
    with tempfile.TemporaryDirectory(prefix="qkov-") as folder:
        path = Path(folder) / "store"
        collector = collect(path)
        collector.seal() if sealed else collector.close()
        yield path


def collect(path, task="math", *, model=None, loss_fn=None, sample_ids=IDS, seed=0, **options):
    """Collect three samples into a store, one a pass; returns the collector, which is still open."""
    collector = qkov.FisherCollector(store=path, **options)
    try:
        collector.collect_fisher(
            model or build_model(), build_batch(LENGTHS["math"], seed=seed), task, sample_ids=sample_ids,
            loss_fn=loss_fn, micro_batch=1, progress=False,
        )  # fmt: skip
    except BaseException:
        collector.close()
        raise
    return collector


def files(path):
    """``{name: SHA-256}`` of all files of a store but the lock."""
    return {
        one.relative_to(path).as_posix(): hashlib.sha256(one.read_bytes()).hexdigest()
        for one in path.rglob("*")
        if one.is_file() and one.name != store_contents.LOCK
    }


@contextlib.contextmanager
def unchanged(path):
    """Fail unless every file is what it was, whatever happens in the block."""
    before = files(path)
    try:
        yield
    finally:
        require(files(path) == before, "files of the store have changed")


class Refusing:
    """``os`` whose calls of one name fail, or write a byte at a time."""

    def __init__(self, name, number):
        self.name, self.number = name, number

    def __getattr__(self, name):
        real = getattr(os, name)
        if name != self.name:
            return real

        def call(*arguments, **options):
            if self.number is None:
                return real(arguments[0], arguments[1][:1])
            raise OSError(self.number, os.strerror(self.number))

        return call


@contextlib.contextmanager
def refusing(name, number):
    """Have the system refuse a call; ``None`` writes one byte of what it is given."""
    original, durable.os = durable.os, Refusing(name, number)
    try:
        yield
    finally:
        durable.os = original


def refused(situation, name, number, remedy):
    """Register a case in which the system refuses one kind of call."""

    def act(ground):
        """Refused with the system's reason; what was committed is kept, and the same command goes on later."""
        with made(sealed=False) as path, unchanged(path), refusing(name, number):
            collect(path, "code", seed=1)

    act.__name__ = f"disk_{errno.errorcode[number].lower()}"
    case(situation, error=errors.DiskError, status=7, says=("store", remedy, "run the same command again"))(act)


refused("a disk that is full", "write", errno.ENOSPC, "Free some space")
refused("a disk that reports a fault", "fsync", errno.EIO, "check it, and use another one")
refused("a file system that became read-only", "open", errno.EROFS, "use another folder")
refused("a folder without permission to write", "open", errno.EACCES, "permissions")
refused("too many open files", "open", errno.EMFILE, "raise the limit on open files")
refused("a quota that is used up", "replace", errno.EDQUOT, "Free some of your quota")


@case("a system that writes less than it is given")
def short_write(ground):
    """Written on until all of it is there: the files are the same bytes."""
    with made() as path, tempfile.TemporaryDirectory(prefix="qkov-") as folder:
        with refusing("write", None):
            collect(Path(folder) / "store").seal()
        require(files(Path(folder) / "store") == files(path), "short writes changed the files")


@case(
    "a plan that takes more than 90 % of the free disk", error=errors.DiskError, status=7,
    says=("collecting 3 samples of task 'code'", "are free", "use another disk"),
)  # fmt: skip
def plan_beyond_the_disk(ground):
    """Refused before the first pass."""

    def loss(*_arguments):
        require(False, "a pass was made")

    with made(sealed=False) as path, unchanged(path):
        usage = shutil.disk_usage(path)._replace(free=1000)
        original, resources.shutil = resources.shutil, _Answering(usage)
        try:
            collect(path, "code", seed=1, loss_fn=loss)
        finally:
            resources.shutil = original


class _Answering:
    def __init__(self, usage):
        self.usage = usage

    def disk_usage(self, _path):
        return self.usage


@case("a process that is killed between two passes", missing=lambda: "" if hasattr(os, "fork") else "no fork here")
def killed(ground):
    """Whole passes are kept; the same calls go on from there and leave the same files, byte for byte."""

    def loss(model, batch):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return losses.causal_lm_loss(model, batch)

    calls = []
    with made() as whole, tempfile.TemporaryDirectory(prefix="qkov-") as folder:
        path = Path(folder) / "store"
        child = os.fork()
        if not child:
            try:
                collect(path, loss_fn=loss)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        require(os.WIFSIGNALED(status), "the process was not killed")
        left = qkov.FisherCollector.open(path, allow_unsealed=True)
        require(left.sample_ids("math") == IDS[:2], f"{left.sample_ids('math')} are kept instead of two samples")
        collect(path, loss_fn=_named(loss)).seal()
        require(set(files(path)) == set(files(whole)), "other files are there than without the kill")


def _named(loss):
    """The loss without the kill, under the same name."""

    def again(model, batch):
        return losses.causal_lm_loss(model, batch)

    again.__module__, again.__qualname__ = loss.__module__, loss.__qualname__
    return again


@case(
    "SIGTERM or Ctrl-C while samples are collected into a store", error=errors.CollectionInterrupted, status=130,
    says=("SIGTERM", "1 samples of task 'code' are committed", "run the same command"),
)  # fmt: skip
def interrupted_store(ground):
    """The pass is finished and committed, and the message says how to go on; a second signal acts at once."""

    def loss(model, batch):
        if not sent:  # a second one would end this process
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return losses.causal_lm_loss(model, batch)

    sent = []
    with made(sealed=False) as path:
        before = files(path)
        try:
            collect(path, "code", seed=1, loss_fn=loss)
        finally:
            after = files(path)
            require(before.items() - {("journal", before["journal"])} <= after.items(), "a committed shard has changed")


def damaged(situation, name, spoil, *says):
    """Register a case in which a file of a sealed store was changed before it is read."""

    def act(ground):
        """Noticed when the store is opened, or at the latest when that sample is read; never a wrong number."""
        with made() as path:
            spoil(path)
            with unchanged(path):
                found = qkov.FisherCollector.open(path)
                found.get_group_fisher("math")

    act.__name__ = name
    case(situation, error=errors.StoreDamagedError, status=5, says=(*says, LOST))(act)


def _shard(path):
    return path / "shards" / store_contents.read(path).tasks["math"]["s1"].file


def _spoil(choose, change):
    def spoil(path):
        one = choose(path)
        one.write_bytes(change(bytearray(one.read_bytes())))

    return spoil


def _flip(data):
    data[-9] ^= 4
    return data


SHARD = "sample 's1' of task 'math'"
damaged("a flipped bit in a shard", "flipped_shard", _spoil(_shard, _flip), SHARD)
damaged("a shard that was cut short", "truncated_shard", _spoil(_shard, lambda data: data[:-100]), SHARD)
damaged("a shard whose end was zeroed", "zeroed_shard", _spoil(_shard, lambda data: data[:-64] + bytes(64)), SHARD)
damaged("a shard that was removed", "missing_shard", lambda path: _shard(path).unlink(), SHARD, "is missing")
damaged("a flipped bit in the journal", "flipped_journal", _spoil(lambda path: path / "journal", _flip), "journal")
damaged("a journal that was cut short", "truncated_journal",
        _spoil(lambda path: path / "journal", lambda data: data[:-200]), "journal")  # fmt: skip
damaged("a journal whose end was zeroed", "zeroed_journal",
        _spoil(lambda path: path / "journal", lambda data: data[:-64] + bytes(64)), "journal")  # fmt: skip
damaged("a flipped bit in the header", "flipped_header", _spoil(lambda path: path / "store.json", _flip), "store.json")
damaged("a flipped bit in the seal", "flipped_seal", _spoil(lambda path: path / "seal.json", _flip), "seal.json")


@case("a damaged shard, repaired and collected again")
def repaired(ground):
    """The sound samples are kept, the lost one is named, and the same calls collect it again, with the same bytes."""
    with made() as path:
        sound, name = files(path), f"shards/{_shard(path).name}"
        _spoil(_shard, _flip)(path)
        report = store_repair.repair_store(path)
        require(report.damaged == (("math", "s1"),), f"the repair names {report.damaged}")
        kept = {key for key, value in files(path).items() if sound.get(key) == value and key.startswith("shards/")}
        require(kept == {key for key in sound if key.startswith("shards/")} - {name}, "a sound shard was lost")
        again = collect(path)
        again.seal()
        require(set(again.sample_ids("math")) == set(IDS), "the lost sample was not collected again")


@case(
    "a store that another version of qkov wrote", error=errors.StoreVersionError, status=5,
    says=("version 99", "Use the version of qkov that wrote it"),
)  # fmt: skip
def other_version(ground):
    """Refused: nothing is guessed about its form."""
    with made() as path:
        content = {**json.loads((path / "store.json").read_text()), "version": 99}
        del content["sha256"]
        content["sha256"] = hashlib.sha256(store_contents.canonical_json(content).encode()).hexdigest()
        (path / "store.json").write_text(store_contents.canonical_json(content))
        with unchanged(path):
            qkov.FisherCollector.open(path)


@case(
    "a second process that writes to the same store", error=errors.StoreBusyError, status=6,
    says=(f"process {os.getpid()}", "Wait for it or end it"),
)  # fmt: skip
def two_writers(ground):
    """Refused, naming the process that writes; readers need no lock."""
    with made(sealed=False) as path:
        first = qkov.FisherCollector(store=path)
        try:
            qkov.FisherCollector.open(path, allow_unsealed=True)
            with unchanged(path):
                qkov.FisherCollector(store=path)
        finally:
            first.close()


@case(
    "scores of a store whose collection has not ended", error=errors.UnsealedStoreError, status=3,
    says=("holds 3 samples", "allow_unsealed=True"),
)  # fmt: skip
def unsealed(ground):
    """Refused unless asked for: they would rest on part of the samples."""
    with made(sealed=False) as path, unchanged(path):
        qkov.FisherCollector.open(path)


@case(
    "new samples for a store whose collection has ended", error=errors.SealedStoreError, status=3,
    says=("is sealed", "unseal()"),
)  # fmt: skip
def sealed(ground):
    """Refused before the first pass; samples that it holds are skipped as ever."""
    with made() as path, unchanged(path):
        collect(path).close()
        collect(path, "code", seed=1)


@case(
    "a store that is continued with other weights", error=errors.ModelChangedError, status=4,
    says=("configuration or weights differ", "Load the model that the store was collected with"),
)  # fmt: skip
def other_weights(ground):
    """Refused before the first pass."""
    with made(sealed=False) as path, unchanged(path):
        model = build_model()
        next(model.parameters()).data[0, 0] += 1
        collect(path, "code", model=model, seed=1)


@case(
    "a store that is continued with other settings", error=errors.StoreMismatchError, status=3,
    says=("contribution_normalisation 'none' instead of 'tokens'", "Use the settings of the store"),
)  # fmt: skip
def other_settings(ground):
    """Refused when it is opened."""
    with made(sealed=False) as path, unchanged(path):
        collect(path, "code", seed=1, contribution_normalisation="none")


@case(
    "a folder that holds something else", error=errors.OptionError, status=2,
    says=("thesis.tex", "Choose a new or an empty folder"),
)  # fmt: skip
def foreign_folder(ground):
    """Refused; nothing is written into it."""
    with tempfile.TemporaryDirectory(prefix="qkov-") as folder:
        Path(folder, "thesis.tex").write_text("x")
        with unchanged(Path(folder)):
            qkov.FisherCollector(store=folder)


@case(
    "a path where there is no store", error=errors.StoreNotFoundError, status=3,
    says=("nowhere", "Check the path"),
)  # fmt: skip
def no_store(ground):
    """Refused; nothing is made."""
    with tempfile.TemporaryDirectory(prefix="qkov-") as folder:
        try:
            qkov.FisherCollector.open(Path(folder) / "nowhere")
        finally:
            require(not list(Path(folder).iterdir()), "something was made")


@case("ids that are paths, or hold what a terminal obeys")
def unsafe_names(ground):
    """Kept as they are and never part of a path: files are named by a number and a hash."""
    names = ["../../../etc/passwd", "a\0b", "CON\x1b[2J"]
    with tempfile.TemporaryDirectory(prefix="qkov-") as folder:
        path = Path(folder) / "store"
        collect(path, task="../task", sample_ids=names).seal()
        require({one.name for one in Path(folder).iterdir()} == {"store"}, "a file lies outside the store")
        require(qkov.FisherCollector.open(path).sample_ids("../task") == tuple(names), "ids have changed")
        shown = str(store_repair.verify_store(path))
        require(shown.replace("\n", "").isprintable(), "the report holds what a terminal obeys")


@case(
    "a cluster label that no file can hold", error=errors.SampleIdError, status=3,
    says=("sample 's0' has a cluster label of type tuple", "Give each cluster a name or a number"),
)  # fmt: skip
def odd_cluster(ground):
    """Refused; nothing of its pass is kept."""
    with tempfile.TemporaryDirectory(prefix="qkov-") as folder:
        collector = qkov.FisherCollector(store=Path(folder) / "store")
        try:
            collector.collect_fisher(
                ground.model, build_batch((5,)), "math", sample_ids=["s0"], clusters=[("a", 1)], progress=False
            )
        finally:
            collector.close()
            require(not any(name.startswith("shards/") for name in files(Path(folder))), "a shard was left")
