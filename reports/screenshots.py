"""`python -m reports.screenshots`: picture every page of the built book on a wide and a narrow window, name what overflows.

Needs Chromium; where there is none it says so and ends with status 3. A page overflows when it can be moved sideways as a
whole: wide tables and formulas must move inside the page. The measured widths come from the browser that draws the page.
"""

import argparse
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .book import MADE_BY_SPHINX

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Nothing of a browser may be asked of the network, and nothing of an earlier start may be left.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--allow-file-access-from-files",
)  # fmt: skip
WIDTHS = {"wide": 1400, "narrow": 420}

# The page in a frame of a given width, since a headless window cannot be as narrow as a telephone. Light or dark is set as the
# switch of the theme sets it; the height and the overflow go into the title, which --dump-dom prints.
FRAME = """\
<!doctype html><meta charset="utf-8"><title>waiting</title>
<style>body {{ margin: 0 }} iframe {{ border: 0; width: {width}px; height: {height}px }}</style>
<iframe src="{address}"></iframe>
<script>
const frame = document.querySelector("iframe")
frame.onload = () => setTimeout(() => {{
  const page = frame.contentDocument
  page.documentElement.dataset.theme = "{mode}"
  const measure = () => {{
    const root = page.documentElement, right = root.clientWidth
    const inside = (one) => {{
      for (let up = one.parentElement; up && up !== page.body; up = up.parentElement)
        if (getComputedStyle(up).overflowX !== "visible") return true
      return false
    }}
    const out = [...page.querySelectorAll("article *")].filter(
      (one) => one.getBoundingClientRect().right > right + 1 && one.getBoundingClientRect().width > 0 && !inside(one))
    const names = out.slice(0, 3).map((one) => one.tagName.toLowerCase() + "." + one.className)
    document.title = JSON.stringify({{ over: root.scrollWidth - right, height: root.scrollHeight, out: names }})
  }}
  if (page.defaultView.MathJax && page.defaultView.MathJax.startup && page.defaultView.MathJax.startup.promise)
    page.defaultView.MathJax.startup.promise.then(() => setTimeout(measure, 200))
  else measure()
}}, 300)
</script>
"""


@dataclass(frozen=True)
class Shot:
    """One picture: of which page, in which window, how far the page is wider than it, and what sticks out."""

    page: str
    window: str
    mode: str
    overflow: int
    sticking_out: tuple[str, ...]
    path: Path


def find_browser():
    """Path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def browse(browser, address, *options):
    """Open one address in a fresh profile; return what the browser prints."""
    with tempfile.TemporaryDirectory(prefix="qkov-browser-") as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", "--virtual-time-budget=8000", *options, address]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout


def measure(browser, page, frame, *, width, mode="light"):
    """Let the browser draw a page in a frame; return how far it is wider, its height, and what sticks out.

    Args:
        browser: Path of the browser.
        page: The HTML file. frame: The file to write the frame into.
        width: Of the window, in pixels. mode: "light" or "dark".
    """
    frame.write_text(
        FRAME.format(width=width, height=900, mode=mode, address=page.resolve().as_uri()), encoding="utf-8"
    )
    printed = browse(browser, frame.as_uri(), "--dump-dom", f"--window-size={width},900")
    found = re.search(r"<title>(\{.*?\})</title>", printed, re.DOTALL)
    if not found:
        raise RuntimeError(f"{browser} did not draw {page}.")
    return json.loads(html.unescape(found[1]))


def shoot(browser, page, folder, *, name, window, mode="light", max_height=12000):
    """Measure one page in one window, and write its picture.

    Args:
        browser: Path of the browser.
        page: The HTML file.
        folder: Where the picture goes. name: Of the page, for the file.
        window: A key of ``WIDTHS``. mode: "light" or "dark".
        max_height: A longer page is cut here, in pixels.
    """
    width = WIDTHS[window]
    with tempfile.TemporaryDirectory(prefix="qkov-frame-") as made:
        frame = Path(made, "frame.html")
        seen = measure(browser, page, frame, width=width, mode=mode)
        height = min(seen["height"], max_height)
        written = frame.read_text(encoding="utf-8")
        frame.write_text(written.replace("height: 900px", f"height: {height}px"), encoding="utf-8")
        path = folder / f"{name.replace('/', '-')}-{window}{'' if mode == 'light' else '-' + mode}.png"
        browse(browser, frame.as_uri(), f"--screenshot={path}", f"--window-size={width},{height}")
    return Shot(name, window, mode, seen["over"], tuple(seen["out"]), path)


def pages_of(folder):
    """HTML files of a built book that are ours, by name."""
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.html"))}
    return {
        name: path for name, path in found.items() if f"{name}.html" not in MADE_BY_SPHINX and "_static" not in name
    }


def parse_arguments(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m reports.screenshots", description=__doc__.split("\n\n")[0])
    parser.add_argument("pages", nargs="*", help="names such as metric or api/results; all of them if none is given")
    parser.add_argument("--html", type=Path, default=ROOT / "_build" / "book" / "pages" / "html", help="the built book")
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "screenshots", help="folder of the pictures")
    parser.add_argument("--window", choices=tuple(WIDTHS), action="append", help="only this one")
    parser.add_argument("--mode", choices=("light", "dark"), default="light", help="of the theme")
    return parser.parse_args(arguments)


def main(arguments=None):
    """Picture the pages; status 1 if one overflows, 3 if there is no browser or no page."""
    options = parse_arguments(arguments)
    browser, pages = find_browser(), pages_of(options.html)
    if browser is None or not pages:
        print(f"screenshots: {'no Chromium is installed' if browser is None else f'no page in {options.html}'}")
        return 3
    options.output.mkdir(parents=True, exist_ok=True)
    wrong = 0
    for name in options.pages or pages:
        for window in options.window or WIDTHS:
            shot = shoot(browser, pages[name], options.output, name=name, window=window, mode=options.mode)
            wrong += (bad := shot.overflow > 0)
            said = f"WIDER BY {shot.overflow} px: {', '.join(shot.sticking_out)}" if bad else "fits"
            print(f"{name:<28} {window:<7} {said}", flush=True)
    print(f"{wrong} of the pictures overflow; they are in {options.output}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
