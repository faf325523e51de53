"""Which commit a folder's checkout is at, read from the files of git, so that no program is needed."""

from __future__ import annotations

import re
from pathlib import Path

_COMMIT = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def commit_of(folder: Path | str) -> str | None:
    """Return the commit that is checked out in a folder or one above it; None where there is no checkout.

    Whether files were changed since is not told.
    """
    folder = Path(folder).resolve()
    for one in (folder, *folder.parents):
        place = one / ".git"
        if place.exists():
            try:
                return _head(place)
            except (OSError, UnicodeDecodeError):  # nothing rests on it, and it may belong to somebody else
                return None
    return None


def _head(place):
    if place.is_file():  # a work tree beside its repository
        place = place.parent / place.read_text().strip().removeprefix("gitdir: ")
    head = (place / "HEAD").read_text().strip()
    shared = place / (place / "commondir").read_text().strip() if (place / "commondir").exists() else place
    return _commit(head) if not head.startswith("ref: ") else _branch(head.removeprefix("ref: "), (place, shared))


def _branch(name, places):
    for place in places:
        if ".." not in name and (place / name).is_file():
            return _commit((place / name).read_text().strip())
        if (place / "packed-refs").is_file():
            for line in (place / "packed-refs").read_text().splitlines():
                commit, _, packed = line.partition(" ")
                if packed == name:
                    return _commit(commit)
    return None  # a branch without a commit yet


def _commit(text):
    return text if _COMMIT.fullmatch(text) else None
