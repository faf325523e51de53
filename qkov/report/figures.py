"""The pictures that go with a report, as SVG text and PNG bytes; equal results give equal bytes on one machine."""

from __future__ import annotations

import re
from pathlib import Path

from .. import durable
from .data import ReportData


def draw(data: ReportData) -> dict[str, tuple[bytes, bytes]]:
    """Return ``{name: (svg, png)}`` of every picture that the data has."""
    drawn = {f"scores-{_file_name(name)}": one.plot() for one, name in zip(data.heatmaps, data.names, strict=True)}
    if data.statistics is not None:
        drawn["statistics"] = data.statistics.plot(alpha=data.alpha)
    if data.prediction is not None:
        drawn["prediction"] = data.prediction.plot()
    return {name: (figure.to_svg().encode(), figure.to_png()) for name, figure in drawn.items()}


def write(pictures: dict[str, tuple[bytes, bytes]], folder: Path | str) -> None:
    """Write pictures as ``NAME.svg`` and ``NAME.png`` into a folder, which is made."""
    durable.make_folder(Path(folder))
    for name, (svg, png) in pictures.items():
        durable.write_file(Path(folder) / f"{name}.svg", [svg])
        durable.write_file(Path(folder) / f"{name}.png", [png])


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)
