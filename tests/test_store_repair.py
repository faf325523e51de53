"""What a repair keeps, sets aside and names; and the commands that look after stores."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

import qkov
from qkov import cli, errors, store_repair
from tests.builders import build_model
from tests.stores import digest, fill, flip, make_store, shard_of
from tests.test_store import last_pass


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "sealed")


@pytest.fixture
def copy(sealed, tmp_path):
    return shutil.copytree(sealed, tmp_path / "copy")


def run(*arguments):
    return CliRunner().invoke(cli.app, ["store", *map(str, arguments)])


def test_a_sound_store_is_sound(copy):
    before = digest(copy)
    report = store_repair.verify_store(copy)
    assert (report.sealed, report.problems, report.notes, report.damaged) == (True, (), (), ())
    assert report.num_samples == {"a": 5, "b": 3}
    assert report.num_bytes == sum(path.stat().st_size for path in (copy / "shards").iterdir())
    assert store_repair.repair_store(copy) == report
    assert digest(copy) == before


@pytest.mark.parametrize("damage", ["flipped", "missing", "truncated", "header"])
def test_a_damaged_shard_is_named_set_aside_and_collected_again(copy, damage):
    path = shard_of(copy, "a", 3)
    data, before = path.read_bytes(), digest(copy)
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[:-7])
    else:
        flip(path, 20 if damage == "header" else len(data) - 2)
    found = store_repair.verify_store(copy)
    assert found.damaged == (("a", 3),)
    assert [path.name in problem for problem in found.problems] == [True]
    report = store_repair.repair_store(copy)
    assert report.damaged == (("a", 3),)
    assert not report.sealed
    assert report.num_samples == {"a": 4, "b": 3}
    assert (copy / "damaged" / path.name).exists() == (damage != "missing")
    assert store_repair.verify_store(copy).problems == ()
    with qkov.FisherCollector(store=copy) as collector:
        fill(collector, build_model("llama", dtype=torch.float32))
    assert sorted(collector.sample_ids("a")) == [0, 1, 2, 3, 4]
    after = {
        name: sha for name, sha in digest(copy).items() if name.startswith("shards/") and path.name[9:] not in name
    }
    assert after.items() <= before.items()


@pytest.mark.parametrize("line", range(6))
def test_a_damaged_line_of_the_journal_loses_nothing(copy, line):
    before = digest(copy)
    starts = [0]
    for one in (copy / "journal").read_bytes().splitlines(keepends=True):
        starts.append(starts[-1] + len(one))
    flip(copy / "journal", starts[line] + 30)
    assert store_repair.verify_store(copy).problems
    report = store_repair.repair_store(copy)
    assert (report.damaged, report.sealed) == ((), True)
    assert digest(copy) == before


@pytest.mark.parametrize("change", ["missing", "flipped"])
@pytest.mark.parametrize("name", ["journal", "store.json", "seal.json"])
def test_a_lost_file_beside_the_shards_loses_nothing(copy, name, change):
    before = digest(copy)
    if change == "missing":
        (copy / name).unlink()
    else:
        flip(copy / name, (copy / name).stat().st_size // 2)
    report = store_repair.repair_store(copy)
    assert (report.damaged, report.num_samples) == ((), {"a": 5, "b": 3})
    if name != "seal.json":  # only a seal tells that collection had ended
        assert digest(copy) == before
        assert report.sealed
    else:
        assert not report.sealed
        assert store_repair.verify_store(copy).problems == ()


def test_lines_lost_from_the_end_are_written_again(copy):
    before = digest(copy)
    last_pass(copy)
    last_pass(copy)
    assert store_repair.repair_store(copy).sealed
    assert digest(copy) == before


def test_without_any_header_nothing_says_what_the_numbers_are(copy):
    flip(copy / "store.json", 50)
    flip(copy / "journal", 50)
    with pytest.raises(errors.StoreDamagedError, match=r"both copies of the header.*Collect again into another folder"):
        store_repair.repair_store(copy)


def test_a_store_that_is_written_to_is_not_repaired(copy):
    collector = qkov.FisherCollector(store=copy)
    with pytest.raises(errors.StoreBusyError):
        store_repair.repair_store(copy)
    collector.close()


def test_commands_say_what_is_there(copy):
    shown = run("info", copy)
    assert shown.exit_code == 0
    assert "5 of task 'a', 3 of task 'b'" in shown.output
    assert "LlamaForCausalLM, float32" in shown.output
    shown = run("verify", copy)
    assert (shown.exit_code, "every byte is what was written" in shown.output) == (0, True)
    assert json.loads(run("info", copy, "--format", "json").output)["num_samples"] == {"a": 5, "b": 3}


def test_commands_end_with_5_on_damage_and_name_it(copy):
    path = shard_of(copy, "b", "z\x1b[2J")
    flip(path, path.stat().st_size - 2)
    shown = run("verify", copy)
    assert shown.exit_code == 5
    assert path.name in shown.output
    assert "\x1b" not in shown.output
    assert "store repair" in shown.output
    assert run("info", copy).exit_code == 0
    shown = run("repair", copy)
    assert shown.exit_code == 5
    assert "lost: sample 'z\\x1b[2J' of task 'b'" in shown.output
    assert "\x1b" not in shown.output
    assert run("repair", copy).exit_code == 0


@pytest.mark.parametrize("command", ["info", "verify", "repair"])
def test_commands_end_with_3_where_there_is_no_store(tmp_path, command):
    shown = run(command, tmp_path / "nowhere")
    assert shown.exit_code == 3
    assert "holds no store" in shown.output
    assert not (tmp_path / "nowhere").exists()


def test_repair_ends_with_6_while_another_process_writes(copy):
    collector = qkov.FisherCollector(store=copy)
    assert run("repair", copy).exit_code == 6
    assert run("verify", copy).exit_code == 0
    collector.close()
