"""Synthetic fields against frozen-phonon multislice of whole fields that were never used in building the library.

    python benchmarks/multislice_fields.py --library out/library/library.nc --work out/references --pairs 2

Four fields: 109° walls, uniform R3c off the grid of tilts and thicknesses, a film on SrTiO3, 10 % Sm at random. The multislice
is of the field's own crystal, whole field and all; it takes some minutes a pair on two cores and goes on where it stopped. Nothing is fitted or scaled: the crystal's d, materials, tilt and thickness and the fraction of Sm in each column go in.
Errors: rms difference over the rms of the multislice image (and over its standard deviation), and differences of fitted A and B
positions. The multislice has noise of its own from its phonons; its standard error over pairs stands beside.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from _common import library_of, machine, parser, report
from _reference_fields import CELLS, MICROSCOPE, Reference, references, simulated
from matplotlib.figure import Figure
from scipy.spatial import cKDTree
from skimage.metrics import normalized_root_mse

import analysis
from structures import Specimen
from tiltsim.images import evaluate
from tiltsim.library import Library
from tiltsim.library.request import EDGES
from tiltsim.synth.crystal import MATERIALS, Crystal
from tiltsim.synth.painting import paint
from tiltsim.synth.path import ScanPath

PIXEL = 0.15
#: Columns this near the border of the picture are not compared, cells.
BORDER = 1.2
#: Cells each way to which a strip is repeated, so that columns can be found in it.
LEAST_CELLS = 6


def main() -> None:
    arguments = parser(__doc__.splitlines()[0])
    arguments.add_argument(
        "--library", type=Path, help="library.nc of the default microscope; default: built anew"
    )
    arguments.add_argument(
        "--work", type=Path, default=Path("out/references"), help="finished units are kept here"
    )
    arguments.add_argument("--pairs", type=int, default=4, help="phonon pairs of the multislice")
    arguments.add_argument("--figure", type=Path)
    options = arguments.parse_args()
    fields = references()
    if options.quick:  # the smallest field
        fields = [f for f in fields if f.name == "uniform"]
    pairs = 1 if options.quick else options.pairs
    library = library_of(options)
    results: dict[str, Any] = {"machine": machine(), "library": library.digest, "fields": {}}
    pictures = []
    for field in fields:
        samples = simulated(field, pairs, None if options.quick else options.work)
        found, picture = compared(field, samples, library)
        results["fields"][field.name] = found
        pictures.append(picture)
        print(field.title, flush=True)
        for row in found["thicknesses"]:
            print("  " + json.dumps(row), flush=True)
    if options.figure:
        draw(pictures).savefig(options.figure, dpi=130)
    report(results, options.json)


def compared(
    field: Reference, samples: np.ndarray, library: Library
) -> tuple[dict[str, Any], dict[str, Any]]:
    rows, columns = (np.tile(np.arange(n), -(-LEAST_CELLS // n)) for n in field.shape)
    height, width = float(field.edge_y[rows].sum()), len(columns) * field.edge_x
    path = ScanPath.ideal((round(height / PIXEL), round(width / PIXEL)), PIXEL)
    axes = [np.arange(n) * PIXEL for n in path.shape[::-1]]
    table = []
    for t, cells in enumerate(CELLS):
        crystal = crystal_of(field, rows, columns, cells)
        foretold = paint(crystal, library, path, MICROSCOPE.source_fwhm).astype(float)
        each = evaluate(samples[:, t], field.specimen.box, *axes, MICROSCOPE.source_fwhm)
        reference = each.mean(axis=0)
        error = positions(foretold, crystal) - positions(reference, crystal)
        spread = [positions(one, crystal) for one in each]
        sem = (
            np.std(spread, axis=0, ddof=1) / np.sqrt(len(each))
            if len(each) > 1
            else np.full(error.shape, np.nan)
        )
        truth, site = places(crystal)
        distance = from_boundary(field, truth, rows)
        seen = (truth > BORDER * 3.9).all(axis=1) & (truth < np.array([width, height]) - BORDER * 3.9).all(
            axis=1
        )
        missing = int((seen & ~np.isfinite(error).all(axis=1)).sum())
        seen &= np.isfinite(error).all(axis=1)
        row: dict[str, Any] = {
            "thickness_angstrom": round(cells * EDGES["BiFeO3"], 1),
            "columns": int(seen.sum()),
            "missing": missing,
            "nrmse": float(normalized_root_mse(reference, foretold)),
            "nrmse_by_std": float(np.sqrt(((reference - foretold) ** 2).mean()) / reference.std()),
            "mean_ratio": float(foretold.mean() / reference.mean()),
        }
        if len(each) > 1:
            row["nrmse_noise"] = float(
                np.sqrt((each.var(axis=0, ddof=1) / len(each)).mean() / (reference**2).mean())
            )
        for kind, at in (("A", site == 0), ("B", site == 1)):
            for where, near in (("away", distance >= 1.0), ("at", distance < 1.0)):
                chosen = seen & at & near
                if chosen.any():
                    key = f"{kind.lower()}_{where}"
                    row[f"{key}_rms_pm"] = float(np.sqrt((error[chosen] ** 2).mean()))
                    row[f"{key}_mean_pm"] = [float(v) for v in error[chosen].mean(axis=0)]
                    row[f"{key}_largest_pm"] = float(np.abs(error[chosen]).max())
                    row[f"{key}_noise_pm"] = float(np.sqrt((sem[chosen] ** 2).mean()))
        table.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    picture = {
        "title": field.title, "simulated": reference, "foretold": foretold, "truth": truth[seen], "site": site[seen],
        "error": error[seen], "distance": distance[seen],
    }  # fmt: skip
    return {
        "title": field.title,
        "tilt_mrad": field.tilt,
        "pairs": len(samples),
        "thicknesses": table,
    }, picture


def crystal_of(
    field: Reference, rows: np.ndarray, columns: np.ndarray, cells: int, margin: int = 3
) -> Crystal:
    """The field as the synthesis takes it, with a margin all around; an A column is at the image's origin."""
    r, c = (
        np.arange(-margin, len(v) + margin) % n for v, n in zip((rows, columns), field.shape, strict=True)
    )
    heights = field.edge_y[r]
    y = np.concatenate([[0.0], np.cumsum(heights)]) - heights[:margin].sum()
    x = (np.arange(len(c) + 1) - margin) * field.edge_x
    a = np.stack(np.meshgrid(x, y), axis=-1)
    d = field.d[np.ix_(r, c)]
    cage = (a[:-1, :-1] + a[1:, :-1] + a[:-1, 1:] + a[1:, 1:]) / 4
    shape = d.shape[:2]
    number = np.vectorize(MATERIALS.index)
    r_a, c_a = np.append(r, (r[-1] + 1) % field.shape[0]), np.append(c, (c[-1] + 1) % field.shape[1])
    return Crystal(
        a=a, b=cage - d / 100.0,
        tilt=np.broadcast_to(np.array(field.tilt), (*shape, 2)).copy(),
        thickness=np.full(shape, cells * EDGES["BiFeO3"]), height=np.zeros(shape),
        samarium=samarium_of(field.specimen, field, cells)[np.ix_(r_a, c_a)],
        material_a=number(field.material_a[np.ix_(r_a, c_a)]), material=number(field.material[np.ix_(r, c)]),
        domain=np.zeros(shape, int),
    )  # fmt: skip


def samarium_of(specimen: Specimen, field: Reference, cells: int) -> np.ndarray:
    """Fraction of Sm in every A column down to ``cells``, shape (rows, columns)."""
    atoms = specimen.atoms
    tops = np.concatenate([[0.0], np.cumsum(field.edge_y)])
    of_a = (specimen.sites == "A") & (atoms.positions[:, 2] < cells * specimen.layer / 2)
    xy = atoms.positions[of_a, :2]
    column = np.round(xy[:, 0] / field.edge_x).astype(int) % field.shape[1]
    row = np.abs(xy[:, 1, None] - tops).argmin(axis=1) % field.shape[0]
    is_sm = np.array(atoms.get_chemical_symbols())[of_a] == "Sm"
    total, doped = np.zeros(field.shape), np.zeros(field.shape)
    np.add.at(total, (row, column), 1)
    np.add.at(doped, (row, column), is_sm)
    return doped / np.maximum(total, 1)


def places(crystal: Crystal) -> tuple[np.ndarray, np.ndarray]:
    """True positions of all columns (n, 2), Å, and their site, 0 or 1."""
    a, b = crystal.a.reshape(-1, 2), crystal.b.reshape(-1, 2)
    return np.concatenate([a, b]), np.repeat([0, 1], [len(a), len(b)])


def positions(image: np.ndarray, crystal: Crystal) -> np.ndarray:
    """Fitted minus true position of every column, pm; NaN where none was fitted."""
    axes = {n: (n, np.arange(k) * PIXEL, {"units": "Å"}) for n, k in zip("yx", image.shape, strict=True)}
    columns = analysis.measure(xr.DataArray(image, dims=("y", "x"), coords=axes), weights="poisson").columns
    truth, site = places(crystal)
    result = np.full(truth.shape, np.nan)
    for number, label in enumerate("AB"):
        fitted = columns.isel(column=np.flatnonzero(columns.site.values == label))
        xy = np.c_[fitted.x, fitted.y]
        ours = np.flatnonzero(site == number)
        distance, nearest = cKDTree(xy).query(truth[ours])
        good = distance < 1.0
        result[ours[good]] = (xy[nearest[good]] - truth[ours[good]]) * 100
    return result


def from_boundary(field: Reference, truth: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Distance of positions from the nearest wall or interface, cells; infinite without one."""
    if field.name == "wall":  # between cells 5 and 6, and 11 and 0
        x = truth[:, 0] / field.edge_x
        return np.abs((x + 3) % 6 - 3)
    if field.name == "interface":
        tops = np.concatenate([[0.0], np.cumsum(field.edge_y)])
        half, whole = tops[6], tops[-1]
        return (
            np.minimum(
                np.abs(truth[:, 1] - half), np.minimum(np.abs(truth[:, 1]), np.abs(truth[:, 1] - whole))
            )
            / 3.9
        )
    return np.full(len(truth), np.inf)


def draw(pictures: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(11, 2.6 * len(pictures)), layout="constrained")
    axes = figure.subplots(len(pictures), 4, squeeze=False)
    for line, p in zip(axes, pictures, strict=True):
        rows, columns = p["simulated"].shape
        extent = (0, columns * PIXEL, rows * PIXEL, 0)
        high = p["simulated"].max()
        for ax, name, title in ((line[0], "simulated", "multislice"), (line[1], "foretold", "synthetic")):
            ax.imshow(p[name], cmap="gray", vmin=0, vmax=high, extent=extent)
            ax.set_title(title, fontsize=8)
        line[2].imshow(
            (p["foretold"] - p["simulated"]) * 10, cmap="RdBu_r", vmin=-high, vmax=high, extent=extent
        )
        line[2].set_title("difference × 10", fontsize=8)
        ax = line[3]
        far = np.isinf(p["distance"]).all()
        along = np.arange(len(p["error"])) if far else p["distance"]
        for number, label, colour in ((0, "A", "tab:orange"), (1, "B", "tab:blue")):
            at = p["site"] == number
            for component, marker in ((0, "o"), (1, "^")):
                ax.plot(
                    along[at], p["error"][at, component], marker, color=colour, markersize=3, alpha=0.7,
                    label=f"{label}, {'xy'[component]}",
                )  # fmt: skip
        ax.axhline(0, color="0.7", linewidth=0.8)
        ax.set_xlabel("column" if far else "distance from the boundary, cells", fontsize=8)
        ax.set_ylabel("synthetic − multislice, pm", fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
        line[0].set_title(f"{p['title']}\nmultislice", fontsize=8)
        for ax in line[:3]:
            ax.set_xticks([])
            ax.set_yticks([])
    axes[0][3].legend(fontsize=6, ncols=2, frameon=False)
    return figure


if __name__ == "__main__":
    main()
