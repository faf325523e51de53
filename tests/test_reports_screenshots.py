"""Pages are measured by a browser; one that is wider than its window is named."""

import pytest

from reports import screenshots

BROWSER = screenshots.find_browser()
PAGE = "<!doctype html><html><body style='margin: 0'><article>{}</article></body></html>"
WIDE = "<div class='ruler' style='width: 900px; height: 9px'></div>"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize(
    ("body", "over", "sticking_out"),
    [
        (WIDE, 480, ["div.ruler"]),
        (f"<div style='overflow-x: auto'>{WIDE}</div>", 0, []),
    ],
)
def test_a_page_wider_than_its_window_is_found(tmp_path, body, over, sticking_out):
    (tmp_path / "page.html").write_text(PAGE.format(body))
    seen = screenshots.measure(BROWSER, tmp_path / "page.html", tmp_path / "frame.html", width=420)
    assert (seen["over"], seen["out"]) == (over, sticking_out)


def test_pages_are_those_of_ours(tmp_path):
    for name in ("intro.html", "api/metric.html", "genindex.html", "search.html", "_static/x.html"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert list(screenshots.pages_of(tmp_path)) == ["api/metric", "intro"]


def test_nothing_to_picture_has_its_own_status(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(screenshots, "find_browser", lambda: "/usr/bin/true")
    assert screenshots.main(["--html", str(tmp_path)]) == 3
    assert "no page in" in capsys.readouterr().out
    monkeypatch.setattr(screenshots, "find_browser", lambda: None)
    assert screenshots.main(["--html", str(tmp_path)]) == 3
    assert "no Chromium" in capsys.readouterr().out
