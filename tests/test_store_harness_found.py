"""Faults that the harnesses found in the store, each once more by itself."""

import errno
import os
from unittest import mock

import pytest
import torch
import transformers

from qkov import durable, shards, store, store_contents, store_lock, store_repair
from qkov.collector import FisherCollector
from qkov.errors import DiskError, SampleIdError, StoreBusyError
from qkov.store import Store
from validation.store import damage, system, workload


@pytest.fixture
def begun(tmp_path):
    """A store with one pass, open for writing."""
    found = Store.writing(tmp_path / "store")
    found.create(workload.HEADER)
    workload.commit(found, "alpha", [0])
    yield found
    found.close()


def refusing(wanted, *, times=1, number=errno.EIO):
    """Refuse primitives by name, in this order, each once or more."""
    left = list(wanted) * times

    def act(name, call, arguments):
        if left and name == left[0]:
            left.pop(0)
            if name == "close":
                call(*arguments)
            raise OSError(number, os.strerror(number))
        return call(*arguments)

    return system.installed(act, lock=True)


def refuse_line(found, *names):
    """Commit a pass whose line is refused by these primitives; its shard is already safe."""
    append = durable.append

    def wrong(*arguments, **options):
        with refusing(names):
            append(*arguments, **options)

    with mock.patch.object(durable, "append", wrong), pytest.raises(DiskError):
        workload.commit(found, "alpha", [1])


@pytest.mark.parametrize("name", ["write", "fsync", "close"])
def test_a_refused_line_is_not_followed_by_another(begun, name):
    before = workload.tree(begun.folder)
    refuse_line(begun, name)
    assert workload.tree(begun.folder) == before
    workload.commit(begun, "alpha", [1])
    begun.close()
    assert set(workload.read_all(begun.folder)["alpha"]) == {0, 1}


def test_shards_stay_where_their_line_cannot_be_undone(begun):
    with mock.patch.object(durable, "cut", side_effect=DiskError("refused")):
        refuse_line(begun, "fsync")
    begun.close()
    assert set(workload.read_all(begun.folder)["alpha"]) == {0, 1}


def test_an_interrupt_behind_the_line_keeps_its_shards(begun):
    append = durable.append

    def interrupted(*arguments, **options):
        append(*arguments, **options)
        raise KeyboardInterrupt

    with mock.patch.object(durable, "append", interrupted), pytest.raises(KeyboardInterrupt):
        workload.commit(begun, "alpha", [1])
    begun.close()
    assert set(workload.read_all(begun.folder)["alpha"]) == {0, 1}


def test_a_journal_that_has_shrunk_is_not_filled_with_zeros(begun):
    os.truncate(begun.folder / "journal", 10)
    with pytest.raises(DiskError, match="has 10 bytes"):
        begun.add_task("beta")


def test_a_refused_seal_is_taken_off(begun):
    with mock.patch.object(durable, "sync_folder", side_effect=DiskError("refused")), pytest.raises(DiskError):
        begun.seal()
    assert not (begun.folder / "seal.json").exists()
    workload.commit(begun, "alpha", [1])
    begun.seal()
    assert set(workload.read_all(begun.folder)["alpha"]) == {0, 1}


def test_a_journal_does_not_grow_under_a_seal(begun):
    with mock.patch.object(durable, "sync_folder", side_effect=DiskError("refused")), \
            mock.patch.object(durable, "remove", side_effect=DiskError("refused")), pytest.raises(DiskError):  # fmt: skip
        begun.seal()
    assert (begun.folder / "seal.json").exists()
    workload.commit(begun, "alpha", [1])
    assert not (begun.folder / "seal.json").exists()


def test_an_id_is_not_committed_twice(begun):
    before = workload.tree(begun.folder)
    for ids in ([0], [1, 1]):
        with pytest.raises(SampleIdError, match="already, or they occur twice"):
            workload.commit(begun, "alpha", ids)
    assert workload.tree(begun.folder) == before


def test_a_collector_that_takes_the_seal_off_knows_what_others_added(tmp_path):
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    model, batch = transformers.LlamaForCausalLM(config), {"input_ids": torch.arange(12).reshape(3, 4)}
    first = FisherCollector(store=tmp_path / "store")
    first.collect_fisher(model, {"input_ids": batch["input_ids"][:1]}, "task", sample_ids=[0], progress=False)
    first.seal()
    with FisherCollector(store=tmp_path / "store") as second:
        second.unseal()
        second.collect_fisher(model, batch, "task", sample_ids=[0, 1, 2], progress=False)
    first.unseal()
    assert first.sample_ids("task") == (0, 1, 2)
    first.collect_fisher(model, batch, "task", sample_ids=[0, 1, 2], progress=False)
    first.seal()
    assert FisherCollector.open(tmp_path / "store").sample_ids("task") == (0, 1, 2)


def test_unseal_gives_the_lock_back_where_it_fails(begun):
    begun.seal()
    (begun.folder / "store.json").write_bytes(b"{}")
    with pytest.raises(store.store_contents.StoreDamagedError):
        begun.unseal()
    assert not begun.writable
    store_lock.release(store_lock.acquire(begun.folder))


def test_opening_syncs_what_a_killed_process_has_written(begun):
    begun.close()
    synced = []
    with (
        mock.patch.object(durable, "sync_file", side_effect=lambda path: synced.append(path.name)),
        mock.patch.object(durable, "sync_folder", side_effect=lambda path: synced.append(path.name)),
    ):
        Store.writing(begun.folder).close()
    assert {"journal", "shards", "store"} <= set(synced)


def test_a_folder_made_by_a_killed_process_is_synced(tmp_path):
    (tmp_path / "a" / "store").mkdir(parents=True)
    synced = []
    with mock.patch.object(durable, "sync_folder", side_effect=synced.append):
        durable.make_folder(tmp_path / "a" / "store" / "shards")
    assert tmp_path / "a" in synced


def test_a_moved_file_is_synced_where_it_is_first(tmp_path):
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    (tmp_path / "from" / "file").write_bytes(b"1")
    synced = []
    with mock.patch.object(durable, "sync_folder", side_effect=lambda path: synced.append(path.name)):
        durable.move(tmp_path / "from" / "file", tmp_path / "to" / "file")
    assert synced == ["to", "from"]


def test_part_of_a_pass_beside_a_torn_line_is_kept(begun):
    workload.commit(begun, "beta", ["x", "y"])
    begun.close()
    (begun.folder / "shards" / begun.contents.tasks["beta"]["x"].file).unlink()
    store_repair.repair_store(begun.folder)
    path = begun.folder / "journal"
    path.write_bytes(path.read_bytes()[:-20])
    again = Store.writing(begun.folder)
    again.close()
    assert set(again.contents.tasks["beta"]) == {"y"}


def test_a_damaged_header_does_not_make_a_sealed_store_new(tmp_path):
    found = Store.writing(tmp_path / "store")
    found.create(workload.HEADER)
    found.seal()
    (tmp_path / "store" / "store.json").write_bytes(b"{}")
    with pytest.raises(store_contents.StoreDamagedError, match=r"store\.json is not what was written"):
        Store.writing(tmp_path / "store")


def unreadable(number):
    """Refuse to open shards."""
    opening = open

    def refused(path, *arguments, **options):
        if str(path).endswith(".safetensors"):
            raise OSError(number, os.strerror(number))
        return opening(path, *arguments, **options)

    return mock.patch("builtins.open", refused), mock.patch("io.open", refused)


def test_a_repair_does_not_take_unreadable_for_damaged(begun):
    begun.close()
    one, other = unreadable(errno.EMFILE)
    with one, other, pytest.raises(DiskError, match="raise the limit on open files") as refused:
        store_repair.repair_store(begun.folder)
    assert refused.value.errno == errno.EMFILE
    assert set(workload.read_all(begun.folder)["alpha"]) == {0}


def test_a_repair_goes_on_without_what_the_disk_has_lost(begun):
    begun.close()
    one, other = unreadable(errno.EIO)
    with one, other:
        assert store_repair.repair_store(begun.folder).damaged == (("alpha", 0),)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
def test_reading_a_sample_tells_of_the_system(begun, number):
    begun.seal()
    held = Store.reading(begun.folder).samples()["alpha"][0]
    one, other = unreadable(number)
    with one, other, pytest.raises(DiskError) as refused:
        held.factors["q_proj"]
    assert refused.value.errno == number


def test_a_missing_shard_is_damage(begun):
    begun.seal()
    held = Store.reading(begun.folder).samples()["alpha"][0]
    (begun.folder / "shards" / held.factors.entry.file).unlink()
    with pytest.raises(store_contents.StoreDamagedError, match="missing"):
        held.factors["q_proj"]


def test_a_shard_whose_header_is_no_mapping_is_not_ours(tmp_path):
    (tmp_path / "1.safetensors").write_bytes((4).to_bytes(8, "little") + b"1234")
    assert shards.inspect(tmp_path / "1.safetensors") is None


def test_a_reader_beside_a_writer_sees_one_moment(begun):
    """The seal is written between the reader's look at the journal and at the seal."""
    reading, ended = store_contents._bytes, []

    def late(path):
        found = reading(path)
        if path.name == "journal" and not ended:
            ended.append(True)
            workload.commit(begun, "alpha", [1])
            begun.seal()
        return found

    with mock.patch.object(store_contents, "_bytes", late):
        contents = store_contents.read(begun.folder)
    assert contents.sealed
    assert not contents.problems
    assert set(contents.tasks["alpha"]) == {0, 1}


def test_a_file_that_vanishes_while_shards_are_counted_is_no_error(begun):
    stat = type(begun.folder).stat
    (begun.folder / "shards" / "late").write_bytes(b"")

    def vanishing(path, **options):
        if path.name == "late":
            raise FileNotFoundError(errno.ENOENT, "gone")
        return stat(path, **options)

    with mock.patch.object(type(begun.folder), "stat", vanishing):
        assert store_contents.read(begun.folder).unlisted == ()


def test_errors_of_listing_are_disk_errors(begun):
    begun.close()
    with mock.patch("os.listdir", side_effect=OSError(errno.EIO, "fault")), \
            mock.patch("os.scandir", side_effect=OSError(errno.EIO, "fault")):  # fmt: skip
        for opening in (Store.writing, store_contents.read, store_repair.repair_store, store._parts):
            with pytest.raises(DiskError):
                opening(begun.folder)


def test_a_lock_whose_closing_fails_is_given_back(begun):
    with pytest.raises(StoreBusyError):
        store_lock.acquire(begun.folder)
    with refusing(["close"]):
        begun.close()
    handle = store_lock.acquire(begun.folder)
    assert not begun.writable
    store_lock.release(handle)


def test_a_lock_is_given_back_although_a_forked_process_holds_a_copy_of_the_handle(tmp_path):
    handle = store_lock.acquire(tmp_path)
    copy = os.dup(handle)
    with pytest.raises(StoreBusyError):
        store_lock.acquire(tmp_path)
    store_lock.release(handle)
    again = store_lock.acquire(tmp_path)
    assert os.fstat(copy).st_ino == os.fstat(again).st_ino  # the copy is still open, on the same lock
    store_lock.release(again)
    os.close(copy)


def test_damage_knows_what_it_leaves_sound():
    one = damage.cases()[1]
    assert len(one.sound) == len(damage.places()) - 1
    assert one.files()[one.file] != damage.states()[one.state][one.file]
