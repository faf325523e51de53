"""What does not fit the memory is refused with both numbers, before it is allocated."""

import pytest

from qkov import memory
from qkov.errors import MemoryLimitError


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
