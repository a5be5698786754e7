"""Measure one micrograph from its file to a folder of results, and know whether that was done before."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import analysis
from tiltsim.errors import SettingsError
from tiltsim.output import check_folder, complete_folder, write_json

#: What one measured image leaves; the summary is written last, so that a folder with one is whole.
SUMMARY = "summary.json"
FIGURES = ("page", "all")
SCANS = ("off", "report", "correct", "propagate")
_RESULTS = (
    "columns.nc", "unit_cells.nc", "unit_cells.csv", "columns.xyz", "polarization.png", "polarization.svg", "columns.png", "columns.svg", SUMMARY,
)  # fmt: skip


@dataclass(frozen=True)
class MeasureOptions:
    """How images are loaded, measured and drawn; see ``analysis.load`` and ``analysis.measure``.

    Parameters
    ----------
    pixel_size : float, optional
        Å per pixel.
    lattice_parameter : float, optional
        Å.
    anisotropic : bool
    zone : str
    dataset : str, optional
    radius : float
        Displacement of full colour in the figures, pm.
    weights, estimator : str
    figures : {"page", "all"}
        One page and the columns, or every picture there is, as PNG, SVG and PDF.
    scan : {"off", "report", "correct", "propagate"}
        What to do about jitter of the scan lines: nothing, estimate it, take it off, or add it to the errors.
    device : str
        What fits the columns; changes nothing in the results.
    """

    pixel_size: float | None = None
    lattice_parameter: float | None = None
    anisotropic: bool = False
    zone: str = "auto"
    dataset: str | None = None
    radius: float = 50.0
    weights: str = "auto"
    estimator: str = "gaussian"
    figures: str = "page"
    scan: str = "off"
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse what figures cannot be drawn with, before any image is fitted."""
        if not self.radius > 0:
            raise SettingsError(f"--radius {self.radius:g} must be positive, in pm.")
        if self.scan not in SCANS:
            raise SettingsError(f"--scan {self.scan} is unknown; choose one of {', '.join(SCANS)}.")
        if self.figures not in FIGURES:
            raise SettingsError(f"--figures {self.figures} is unknown; choose one of {', '.join(FIGURES)}.")

    @property
    def decisive(self) -> dict[str, Any]:
        """What the results depend on."""
        return {name: value for name, value in asdict(self).items() if name != "device"}


def measure_file(path: Path, options: MeasureOptions) -> analysis.Measurement:
    """Load and measure a micrograph; what is wrong with the image is said of its file.

    Raises
    ------
    ImageError
        As from ``analysis.load`` and ``analysis.measure``.
    """
    image = analysis.load(path, pixel_size=options.pixel_size, dataset=options.dataset)
    try:
        return analysis.measure(
            image,
            zone=options.zone,
            lattice_parameter=options.lattice_parameter,
            anisotropic=options.anisotropic,
            weights=options.weights,
            estimator=options.estimator,
            device=options.device,
        )
    except analysis.ImageError as error:
        text = str(error)
        raise analysis.ImageError(
            f"{path.name}{text.removeprefix('image')}" if text.startswith("image:") else text
        ) from error


def measure_into(path: Path, out: Path, options: MeasureOptions) -> dict[str, Any]:
    """Measure a micrograph and write tables, figures and summary.json to ``out``, all of them or none.

    Returns
    -------
    dict
        What is in summary.json: ``analysis.summary`` with ``image``, ``options``, ``digest``, ``seconds``.

    Raises
    ------
    ImageError
        The image cannot be read or measured.
    SettingsError
        `out` cannot be written.
    """
    start = time.perf_counter()
    check_folder(out)
    m = measure_file(path, options)
    distortion = analysis.scan_distortion(m) if options.scan != "off" else None
    if distortion is not None and options.scan == "correct":
        m = analysis.correct_distortion(m, distortion)
    elif distortion is not None and options.scan == "propagate":
        m = analysis.propagate_jitter(m, distortion)
    with complete_folder(out) as folder:
        if distortion is not None:
            analysis.write_dataset(distortion, folder / "distortion.nc")
            analysis.save(analysis.plot_distortion(distortion), folder / "distortion")
        analysis.write_dataset(m.columns, folder / "columns.nc")
        analysis.write_dataset(m.unit_cells, folder / "unit_cells.nc")
        analysis.write_csv(m.unit_cells, folder / "unit_cells.csv")
        analysis.write_xyz(m, folder / "columns.xyz")
        if options.figures == "all":
            analysis.plot_all(m, folder, radius_pm=options.radius)
        else:
            page = analysis.plot_polarization(m.image, m, radius_pm=options.radius)
            analysis.save(page, folder / "polarization")
            analysis.save(analysis.plot_columns(m.image, m), folder / "columns")
        # From here to its new summary the folder counts as unfinished, should all end in between.
        (out / SUMMARY).unlink(missing_ok=True)
    summary = {
        "image": path.name,
        **analysis.summary(m),
        "options": options.decisive,
        "digest": digest(path, options),
        "seconds": time.perf_counter() - start,
    }
    write_json(summary, out / SUMMARY)
    return summary


def digest(path: Path, options: MeasureOptions) -> str:
    """SHA-256 of everything results depend on: the file's bytes, the options and this package's version.

    Raises
    ------
    ImageError
        The file cannot be read.
    """
    asked = json.dumps({"version": version("tiltsim"), **options.decisive}, sort_keys=True)
    total = hashlib.sha256(asked.encode())
    for part in (path, *_companions(path)):
        try:
            with part.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise analysis.ImageError(
                f"{part}: cannot be read ({error.strerror}); check the path."
            ) from error
    return total.hexdigest()


def _companions(path: Path) -> list[Path]:
    """The .ser files in which an .emi file keeps its images."""
    if path.suffix.lower() != ".emi":
        return []
    start = f"{path.stem}_"
    return sorted(p for p in path.parent.glob("*.ser") if p.name.startswith(start))


def finished(path: Path, out: Path, options: MeasureOptions) -> dict[str, Any] | None:
    """The summary that an earlier run left in ``out`` for this very content and these options, if it is whole."""
    if not all((out / name).is_file() for name in _RESULTS):
        return None
    try:
        summary = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
        same = summary["digest"] == digest(path, options)
    except (OSError, ValueError, KeyError, TypeError, analysis.ImageError):
        return None  # to be measured anew, which says what is wrong with the file
    return summary if same else None
