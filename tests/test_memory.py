"""What does not fit the memory is refused with both numbers, before it is allocated."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from qkov import memory
from qkov.errors import MemoryLimitError, OptionError


def test_some_memory_is_available():
    assert memory.available_bytes() > 2**24


@pytest.mark.parametrize(("num_bytes", "fits"), [(89, True), (90, True), (91, False), (10**30, False)])
def test_up_to_nine_tenths_are_used(monkeypatch, num_bytes, fits):
    monkeypatch.setattr(memory, "available_bytes", lambda: 100)
    if fits:
        assert memory.require(num_bytes, "a heatmap", "Do less.") is None
        return
    with pytest.raises(
        MemoryLimitError, match=r"a heatmap would take .* GiB; 0.0 GiB of memory are available. Do less"
    ):
        memory.require(num_bytes, "a heatmap", "Do less.")


def test_nothing_is_refused_where_nobody_tells(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    assert memory.require(10**30, "a heatmap", "Do less.") is None


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text("1000\n")
    used.write_text("400\n")
    monkeypatch.setattr(memory, "_LIMITS", ((limit, used), (tmp_path / "none", used)))
    assert memory.available_bytes() == 600
    (tmp_path / "memory.stat").write_text("anon 70\ninactive_file 30\n")
    assert memory.available_bytes() == 630


def test_a_container_without_a_limit_does_not_count(monkeypatch, tmp_path):
    limit, used, of_machine = tmp_path / "max", tmp_path / "current", tmp_path / "meminfo"
    limit.write_text("max\n")
    used.write_text("400\n")
    of_machine.write_text("MemTotal: 9 kB\nMemAvailable:       3 kB\n")
    monkeypatch.setattr(memory, "_LIMITS", ((limit, used),))
    monkeypatch.setattr(memory, "_MEMINFO", of_machine)
    assert memory.available_bytes() == 3 * 1024


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (1, 1),
        (10**18, 10**18),
        ("8GB", 8 * 10**9),
        ("8 gb", 8 * 10**9),
        (" 8GiB ", 8 * 2**30),
        ("500 MB", 500 * 10**6),
        ("500MiB", 500 * 2**20),
        ("1.5GB", 1_500_000_000),
        ("0.1 KiB", 102),
        ("2TB", 2 * 10**12),
        ("2 TiB", 2 * 2**40),
        ("12345", 12345),
        ("7 b", 7),
        ("9007199254740993", 9007199254740993),  # a float would make it even
    ],
)
def test_a_budget_is_read_as_written(value, expected):
    found = memory.budget_bytes(value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "value",
    [0, -1, True, False, 1.0, 8e9, float("nan"), float("inf"), "", " ", "GB", "0", "0GB", "0.1 b", "-8GB", "8G", "8 XB",
     "8GB 2", "1e9", "nan", "8,5GB", "٣GB", ".5GB", b"8GB", [8], 8 + 0j],
)  # fmt: skip
def test_a_budget_without_meaning_is_refused(value):
    with pytest.raises(
        OptionError, match=r"memory_budget=.*expected None, a whole number of bytes of at least 1.*'8GB'"
    ):
        memory.budget_bytes(value)


def test_resident_memory_follows_what_is_held():
    before = memory.resident_bytes()
    held = mmap.mmap(-1, 50_000_000)  # not from what this process has freed before
    for place in range(0, len(held), mmap.PAGESIZE):
        held[place] = 1
    during = memory.resident_bytes()
    peak = memory.peak_resident_bytes()
    held.close()
    assert 45e6 < during - before < 60e6
    assert memory.resident_bytes() - before < 10e6
    assert peak >= during - 2**21  # the counter of the peak lags behind by some pages of each thread
    assert memory.peak_resident_bytes() >= peak - 2**21


def test_the_peak_is_that_of_the_program_alone():
    held = bytearray(b"1") * 200_000_000
    command = "from qkov import memory; print(memory.peak_resident_bytes())"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert 5e6 < int(done.stdout) < len(held) < memory.resident_bytes()


def test_without_proc_the_system_is_asked(monkeypatch):
    expected = memory.peak_resident_bytes()
    monkeypatch.setattr(memory, "_STATUS", Path("/nowhere"))
    monkeypatch.setattr(memory, "_STATM", Path("/nowhere"))
    assert memory.peak_resident_bytes() == pytest.approx(expected, rel=0.2)
    assert memory.resident_bytes() >= expected * 0.9


FREED = """
import sys
from qkov import memory
if sys.argv[1] == "yes":
    assert memory.return_what_is_freed()
large = bytearray(b"1") * 30_000_000
del large  # from here on glibc keeps blocks of up to this size, unless told
large, pin = bytearray(b"1") * 29_000_000, bytearray(b"1") * 200_000
before = memory.resident_bytes()
del large
print(before - memory.resident_bytes())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="about the C library of Linux")
@pytest.mark.parametrize(("told", "returned"), [("yes", True), ("no", False)])
def test_freed_memory_is_returned_where_asked_for(told, returned):
    done = subprocess.run([sys.executable, "-c", FREED, told], capture_output=True, text=True, check=True)
    assert (int(done.stdout) > 25e6) == returned


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.return_what_is_freed() is False
