"""The page on importance: its code runs in one go, and prints what the page shows."""

import re
from pathlib import Path

TEXT = (Path(__file__).parent.parent / "book" / "importance.md").read_text(encoding="utf-8")


def test_code_of_the_page_prints_what_the_page_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found, names = re.findall(r"```(python|text)\n(.*?)```", TEXT, flags=re.DOTALL), {}
    assert [kind for kind, _ in found] == ["python", "text"] * 4
    for (_, code), (_, shown) in zip(found[::2], found[1::2], strict=True):
        exec(compile(code, "importance.md", "exec"), names)
        assert capsys.readouterr().out == shown
    assert names["pruned"].isfinite()
    path = names["qkov"].export_head_table(list(names["fisher"].values()), "heads.csv")  # as in the text
    assert len(names["qkov"].load_head_table(path)) == 2 * 2 * (8 + 2 + 2 + 8)
