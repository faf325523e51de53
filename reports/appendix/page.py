"""What the book shows of the appendix: links to its files."""

import shutil
import zipfile

FILES = {
    "appendix.pdf": "the appendix",
    "appendix-source.zip": "its LaTeX source: text, tables, numbers",
    "numbers.json": "the place in the evidence of every number in it",
}
ZIPPED = ("appendix.tex", "numbers.tex", "text", "tables")


def copy_files(written, folder):
    """Put the files of an appendix where the pages of the book find them, the source as one archive of fixed bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
        if (written.folder / name).exists():
            shutil.copyfile(written.folder / name, folder / name)
    with zipfile.ZipFile(folder / "appendix-source.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in written.folder.rglob("*.tex")):
            # A date and rights that are the same in every build.
            entry = zipfile.ZipInfo(path.relative_to(written.folder).as_posix())
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, path.read_bytes())


def appendix_tables(written):
    """The links as MyST text, by name; what was not made is said so."""
    lines = []
    for name, what in FILES.items():
        there = name.endswith(".zip") or (written.folder / name).exists()
        lines.append(
            f"- {{download}}`{name} <generated/{name}>`: {what}" if there else f"- {name}: not made in this build"
        )
    said = f"{written.num_tables} tables, and the sources of {written.num_numbers:,} numbers."
    return {"appendix_files": "\n".join([*lines, "", said, ""])}
