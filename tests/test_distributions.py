"""The complaints about built distributions: a good pair has none, and each planted fault is seen."""

import io
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import qkov
from validation import distributions

ROOT = Path(__file__).resolve().parent.parent
ABOUT = "qkov-0.1.0.dist-info"
METADATA = (
    "Metadata-Version: 2.4\nName: qkov\nVersion: 0.1.0\n\n" + "Words of README.md, with a [link](https://x.org). " * 30
)
PACKAGE = {
    "qkov/__init__.py": '__version__ = "0.1.0"\n',
    "qkov/py.typed": "",
    "qkov/report/page.css": "body {}\n",
}
WHEEL = {
    **PACKAGE,
    f"{ABOUT}/METADATA": METADATA,
    f"{ABOUT}/WHEEL": "",
    f"{ABOUT}/RECORD": "",
    f"{ABOUT}/entry_points.txt": "[console_scripts]\nqkov = qkov.cli:main\n",
    f"{ABOUT}/licenses/LICENSE": "MIT",
}
SOURCE = {**PACKAGE, "pyproject.toml": "", "README.md": "", "PKG-INFO": METADATA}
TRACKED = SOURCE.keys() - {"PKG-INFO"}


def write(folder, wheel=WHEEL, source=SOURCE):
    """A wheel and a source distribution of files given by name, in a folder of their own."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "qkov-0.1.0-py3-none-any.whl", "w") as archive:
        for name, text in wheel.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    with tarfile.open(folder / "qkov-0.1.0.tar.gz", "w") as archive:
        for name, text in source.items():
            member = tarfile.TarInfo(f"qkov-0.1.0/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return folder


def without(files, name):
    return {one: text for one, text in files.items() if one != name}


def test_a_good_pair_has_no_complaint(tmp_path, capsys, monkeypatch):
    folder, again = write(tmp_path / "first"), write(tmp_path / "second")
    assert distributions.folder_complaints(folder, TRACKED) == []
    assert distributions.difference_complaints(folder, again) == []
    monkeypatch.setattr(distributions, "tracked_files", lambda: TRACKED)
    assert distributions.main([str(folder), str(again)]) == 0
    assert re.search(r"qkov-0\.1\.0\.tar\.gz  0\.\d\d MB  sha256 [0-9a-f]{64}", capsys.readouterr().out)


WRONG_WHEELS = {
    "holds tests/test_x.py, which is no part": {**WHEEL, "tests/test_x.py": ""},
    "holds qkov/__pycache__/x.py, which is no part": {**WHEEL, "qkov/__pycache__/x.py": ""},
    "holds qkov/weights.safetensors, which is no part": {**WHEEL, "qkov/weights.safetensors": ""},
    "lacks qkov/py.typed": without(WHEEL, "qkov/py.typed"),
    "lacks qkov-0.1.0.dist-info/licenses/LICENSE": without(WHEEL, f"{ABOUT}/licenses/LICENSE"),
    "lacks qkov.dist-info/METADATA": without(WHEEL, f"{ABOUT}/METADATA"),
    "makes no command qkov": {**WHEEL, f"{ABOUT}/entry_points.txt": ""},
    "only one of": {**WHEEL, "qkov/forgotten.py": ""},
    "qkov/__init__.py gives another": {**WHEEL, "qkov/__init__.py": '__version__ = "0.2.0"'},
    "is invalid for 'requires-python'": {
        **WHEEL,
        f"{ABOUT}/METADATA": METADATA.replace("\n\n", "\nRequires-Python: newest\n\n"),
    },
    "expected README.md": {**WHEEL, f"{ABOUT}/METADATA": METADATA[:90]},
    "links to book/picture.svg": {**WHEEL, f"{ABOUT}/METADATA": METADATA + "![x](book/picture.svg)"},
    "links to docs/a.html": {**WHEEL, f"{ABOUT}/METADATA": METADATA + '<a href="docs/a.html">'},
}


@pytest.mark.parametrize("said", WRONG_WHEELS)
def test_a_wrong_wheel_is_seen(said, tmp_path):
    found = distributions.folder_complaints(write(tmp_path / "built", wheel=WRONG_WHEELS[said]), TRACKED)
    assert any(said in line for line in found), found


@pytest.mark.parametrize(
    ("said", "source"),
    [
        ("lacks README.md", without(SOURCE, "README.md")),
        ("holds _build/x.json, which is not tracked", {**SOURCE, "_build/x.json": ""}),
    ],
)
def test_a_wrong_source_distribution_is_seen(said, source, tmp_path):
    found = distributions.folder_complaints(write(tmp_path / "built", source=source), TRACKED)
    assert any(said in line for line in found), found


def test_a_link_in_a_source_distribution_is_seen(tmp_path):
    path = write(tmp_path / "built") / "qkov-0.1.0.tar.gz"
    with tarfile.open(path, "a") as archive:
        member = tarfile.TarInfo("qkov-0.1.0/link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    assert distributions.source_complaints(path, TRACKED) == [
        "qkov-0.1.0.tar.gz holds qkov-0.1.0/link, which is no file"
    ]


def test_other_bytes_of_a_second_build_are_seen(tmp_path):
    first = write(tmp_path / "first")
    second = write(tmp_path / "second", wheel={**WHEEL, f"{ABOUT}/RECORD": "x"})
    (line,) = distributions.difference_complaints(first, second)
    assert line.startswith("qkov-0.1.0-py3-none-any.whl is not the same in")
    (second / "qkov-0.1.0.tar.gz").unlink()
    assert len(distributions.difference_complaints(first, second)) == 2
    assert distributions.main([str(first), str(second)]) == 1
    assert "expected a wheel and a .tar.gz" in distributions.folder_complaints(second)[0]


def test_only_a_checkout_has_tracked_files(tmp_path):
    assert distributions.tracked_files(tmp_path) is None
    if (found := distributions.tracked_files()) is not None:
        assert {"pyproject.toml", "qkov/__init__.py"} <= found


def test_version_is_written_in_one_place_and_cited():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version", "readme"]' in project
    assert not re.search(r"^version\s*=", project, flags=re.MULTILINE)
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (.*)$", cited, flags=re.MULTILINE).group(1) == qkov.__version__


def test_description_is_the_readme_without_what_lies_beside_it():
    """The substitutions of pyproject.toml, applied here as the build applies them."""
    hook = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["metadata"]["hooks"]
    readme = text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert distributions.description_complaints(readme)
    for one in hook["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(one["pattern"], one["replacement"], text)
    assert distributions.description_complaints(text) == []
    blocks = r"```.*?```"
    assert re.findall(blocks, text, flags=re.DOTALL) == re.findall(blocks, readme, flags=re.DOTALL)
    assert len(readme) - len(text) < 600  # the picture and its caption, and brackets
