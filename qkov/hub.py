"""How a model of others is loaded: from where, in which revision, and whether code that comes with it may run.

Code is run only if asked for, and only of one commit: a branch or a tag can be moved to other code by whoever owns the
repository, a commit cannot. Weights need no such care, as they are read and never executed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .errors import OptionError

__all__ = ["loading_options"]

_COMMIT = re.compile(r"[0-9a-f]{40}")


def loading_options(
    name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Return the keywords of ``from_pretrained`` for a folder or a name on the hub; nothing is loaded or asked.

    Args:
        name_or_path: A local folder, or a name on the hub.
        revision: Branch, tag or commit on the hub; None for the default branch.
        trust_remote_code: Run code that comes with the model.

    Raises:
        OptionError: If code is to run that no 40-digit commit pins, or a folder is given a revision.

    Example:
        >>> loading_options("owner/model", revision="v1.0")
        {'trust_remote_code': False, 'local_files_only': False, 'revision': 'v1.0'}
    """
    is_folder = Path(name_or_path).is_dir()
    if is_folder and (revision is not None or trust_remote_code):
        asked = "trust_remote_code" if trust_remote_code else f"revision {revision!r}"
        raise OptionError(
            f"{str(name_or_path)!r} is a folder, and {asked} is for names on the hub: a folder has one state, and no code in "
            "it is run, because nothing pins it."
        )
    options: dict[str, Any] = {"trust_remote_code": bool(trust_remote_code), "local_files_only": is_folder}
    if revision is not None:
        options["revision"] = revision
    if trust_remote_code:
        if _COMMIT.fullmatch(revision or "") is None:
            raise OptionError(
                f"trust_remote_code runs code of {str(name_or_path)!r} at revision {revision!r}, which its owner can change; "
                "expected a commit, 40 digits of 0-9 and a-f. Read the code of one commit on the hub and name that one."
            )
        # A model may name code in another repository, and transformers would take that one's default branch. This commit
        # does not exist there, so it is refused.
        options["code_revision"] = revision
    return options
