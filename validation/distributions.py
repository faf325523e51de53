"""What the wheel and the source distribution of qkov hold, and what is wrong with them.

``python -m validation.distributions FIRST [SECOND]`` looks at the folder that ``python -m build`` made; with a second folder
it also asks that both builds are the same bytes. `nox -s package` builds the second from what the first source distribution
holds, in another folder, so that nothing that is needed can be missing from it.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from packaging.metadata import Metadata

ROOT = Path(__file__).resolve().parent.parent

# Beside Python: the mark of a typed package, and what a page of results is made of.
KINDS = (".py", ".typed", ".css", ".js", ".html", ".svg")

NEEDED = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")


def wheel_complaints(path):
    """Sentences about a wheel of qkov that holds too much or too little, or says of itself what is not so."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    about = next((name.split("/")[0] for name in files if name.endswith(".dist-info/METADATA")), "qkov.dist-info")
    found = [
        f"{path.name} holds {name}, which is no part of the package" for name in files if not _belongs(name, about)
    ]
    found += [f"{path.name} lacks {name}" for name in missing(files, about)]
    if f"{about}/METADATA" in files:
        found += metadata_complaints(files[f"{about}/METADATA"], files.get("qkov/__init__.py", b""))
    if b"qkov = qkov.cli:main" not in files.get(f"{about}/entry_points.txt", b""):
        found.append(f"{path.name} makes no command qkov")
    return found


def missing(files, about):
    """Names that a wheel must hold and does not."""
    wanted = ["qkov/__init__.py", "qkov/py.typed", *(f"{about}/{name}" for name in NEEDED)]
    return [name for name in wanted if name not in files]


def _belongs(name, about):
    parts = PurePosixPath(name).parts
    if parts[0] == about:
        return True
    return parts[0] == "qkov" and "__pycache__" not in parts and PurePosixPath(name).suffix in KINDS


def metadata_complaints(text, package):
    """Sentences about the metadata of a distribution; ``package`` is its ``qkov/__init__.py``, which has the version."""
    try:
        fields = Metadata.from_email(text, validate=True)
    except ExceptionGroup as invalid:
        return [f"metadata: {one}" for one in invalid.exceptions]
    found = []
    if f'__version__ = "{fields.version}"' not in package.decode():
        found.append(f"metadata give version {fields.version}; qkov/__init__.py gives another")
    return found + description_complaints(fields.description or "")


def description_complaints(text):
    """Sentences about a description that is empty, or links to files that are not beside it where it is shown."""
    if len(text) < 1000:
        return [f"the description has {len(text)} characters; expected README.md"]
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=[\"']?([^\"'\s>]+)", prose)
    targets = ["".join(link) for link in links]
    return [
        f"the description links to {target}, which is not beside it"
        for target in targets
        if not target.startswith(("https://", "http://", "#"))
    ]


def source_complaints(path, tracked):
    """Sentences about a source distribution that does not hold every tracked file, or holds another one.

    Args:
        path: The ``.tar.gz``.
        tracked: Names that the checkout tracks, relative to its root.
    """
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    names = {member.name.partition("/")[2] for member in members if member.isfile()}
    found = [f"{path.name} holds {member.name}, which is no file" for member in members if not member.isfile()]
    found += [f"{path.name} lacks {name}" for name in sorted(tracked - names)]
    return found + [
        f"{path.name} holds {name}, which is not tracked" for name in sorted(names - tracked - {"PKG-INFO"})
    ]


def package_complaints(wheel, source):
    """Sentences about files of the package that only one of wheel and source distribution holds."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("qkov/")}
    with tarfile.open(source) as archive:
        named = {member.name.partition("/")[2] for member in archive.getmembers()}
    sources = {name for name in named if name.startswith("qkov/")}
    return [f"only one of {wheel.name} and {source.name} holds {name}" for name in sorted(packed ^ sources)]


def difference_complaints(first, second):
    """Sentences about files of two folders that are not the same bytes."""
    one, other = ({path.name: _sha256(path) for path in folder.iterdir()} for folder in (first, second))
    return [f"{name} is not the same in {first} and {second}" for name in sorted(dict(one.items() ^ other.items()))]


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tracked_files(root=ROOT):
    """Names of all files that git tracks and that are there; None where this is no checkout."""
    if not (root / ".git").exists():
        return None
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True).stdout.decode()
    return {name for name in listed.split("\0") if name and (root / name).is_file()}


def folder_complaints(folder, tracked=None):
    """Sentences about a folder that should hold one wheel and one source distribution."""
    wheels, sources = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if (len(wheels), len(sources)) != (1, 1) or len(list(folder.iterdir())) != 2:
        return [f"{folder} holds {sorted(path.name for path in folder.iterdir())}; expected a wheel and a .tar.gz"]
    found = wheel_complaints(wheels[0]) + package_complaints(wheels[0], sources[0])
    return found + (source_complaints(sources[0], tracked) if tracked is not None else [])


def main(arguments=None):
    """Print what is wrong with built distributions; exit status 1 if anything is."""
    parser = argparse.ArgumentParser(prog="python -m validation.distributions", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    folders = parser.parse_args(arguments).folders
    tracked = tracked_files()
    if tracked is None:
        print("not a checkout: whether the source distribution holds every tracked file is not looked at")
    found = [line for folder in folders for line in folder_complaints(folder, tracked)]
    found += [line for other in folders[1:] for line in difference_complaints(folders[0], other)]
    for line in found:
        print(line)
    for path in sorted(folders[0].iterdir()):
        print(f"{path.name}  {path.stat().st_size / 1e6:.2f} MB  sha256 {_sha256(path)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
