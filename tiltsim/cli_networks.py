"""The verbs ``networks …``: what the published studies of networks show, each one command and one figure."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import xarray as xr
from matplotlib.figure import Figure

import analysis
import dcnn
from tiltsim.cli_options import Device, Out, console
from tiltsim.errors import SettingsError
from tiltsim.library import Library, open_library
from tiltsim.network_studies import (
    NetworkStudy,
    centred_study,
    centred_summary,
    cross_study,
    cross_summary,
    features_study,
    features_summary,
    fresh_model,
    maps_study,
    maps_summary,
    noise_study,
    noise_summary,
    plot_centred,
    plot_cross,
    plot_features,
    plot_maps,
    plot_noise,
    plot_saliency,
    saliency_study,
    saliency_summary,
    tilted_fields,
    windows_of,
)
from tiltsim.output import check_folder, complete_folder, write_json
from tiltsim.progress import Bars, progress_bars

networks = typer.Typer(
    help="Studies of networks after Nelson et al., npj Comput. Mater. 7, 149 (2021), on synthetic fields whose truth is "
    "known: each one command and one figure.",
    no_args_is_help=True,
)

LibraryFile = Annotated[
    Path | None,
    typer.Option("--library", help="Response library, made by `tiltsim library build`.", show_default=False),
]
Labels = Annotated[
    str, typer.Option(help="What networks learn: fit (column fits of the image, as published) or truth.")
]
Dose = Annotated[float, typer.Option(help="Incident electrons per Å².")]
Thickness = Annotated[float, typer.Option(help="Å.")]
Tilt = Annotated[float, typer.Option(min=0, help="Mis-tilt of all fields, mrad.")]
Azimuth = Annotated[float, typer.Option(help="Direction of it, degrees from x (right) towards y (down).")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training windows, at most.")]
Fields = Annotated[int, typer.Option(min=1, help="Fields each network learns from.")]
Network = Annotated[str, typer.Option(help="baseline (small CNN) or residual.")]
Seed = Annotated[int, typer.Option(min=0, help="Of specimens, noise and weights.")]
Quick = Annotated[bool, typer.Option("--quick", help="Small fields, short training: does it all work?")]
Component = Annotated[str, typer.Option(help="Component of d in the maps: x or y.")]
ModelFile = Annotated[
    Path | None,
    typer.Option(
        "--model", help="A trained model to look into; default: one is trained.", show_default=False
    ),
]

#: Held-out fields have other numbers than any that are trained on.
_HELD_OUT = 100_000


@dataclass(frozen=True)
class _Made:
    """What a verb leaves: its name, dataset, summary, figure and a line to print."""

    name: str
    result: xr.Dataset
    summary: dict[str, Any]
    draw: Callable[[], Figure]
    line: str


def _ready(library: Path | None, out: Path) -> Library:
    if library is None:
        raise SettingsError("--library is missing; make one with `tiltsim library build` and give its file.")
    check_folder(out)
    return open_library(library)


def _leave(study: NetworkStudy, made: _Made, folder: Path, begin: float) -> None:
    analysis.write_dataset(made.result, folder / f"{made.name}.nc")
    analysis.save_figure(made.draw(), folder / made.name)
    write_json(
        {**made.summary, "study": asdict(study), "seconds": time.perf_counter() - begin},
        folder / "summary.json",
    )


def _component(name: str) -> str:
    if name not in ("x", "y"):
        raise SettingsError(f"--component {name!r} is unknown; choose x or y.")
    return name


def _run(
    study: NetworkStudy,
    library: Path | None,
    out: Path,
    quick: bool,
    work: Callable[[NetworkStudy, Library, Bars], _Made],
) -> None:
    begin = time.perf_counter()
    response = _ready(library, out)
    settled = study.quick if quick else study
    with complete_folder(out) as folder, progress_bars(console) as bars:
        made = work(settled, response, bars)
        _leave(settled, made, folder, begin)
    console.print(f"{made.line} → {out}")


@networks.command()
def maps(
    library: LibraryFile = None,
    out: Out = Path("out/networks/maps"),
    labels: Labels = "fit",
    dose: Dose = 5e4,
    thickness: Thickness = 100.0,
    tilt: Tilt = 0.0,
    azimuth: Azimuth = 0.0,
    component: Component = "x",
    epochs: Epochs = 60,
    network: Network = "baseline",
    seed: Seed = 0,
    quick: Quick = False,
    device: Device = "auto",
) -> None:
    """Map truth, prediction and difference for 0, 7, 10, 13 and 20 % Sm, trained on the left 2/3 and tested on the right 1/3.

    Compositions are model specimens: d is full at 0 and 7 %, 0.8 of it at 10 %, 0.4 at 13 %, none at 20 %.

    Example: tiltsim networks maps --library library.nc --out out/maps
    """
    drawn = _component(component)
    study = NetworkStudy(
        labels=labels, dose_per_A2=dose, thickness=thickness, tilt=tilt, azimuth=azimuth, epochs=epochs,  # type: ignore[arg-type]  # checked there
        network=network, seed=seed, device=device,
    )  # fmt: skip

    def work(settled: NetworkStudy, response: Library, bars: Bars) -> _Made:
        result = maps_study(settled, response, reporter=bars)
        line = "test RMSE, pm: " + ", ".join(
            f"{100 * float(s):.0f} % Sm {float(n):.1f} (fit {float(f):.1f})"
            for s, n, f in zip(result.composition, result.rmse_network, result.rmse_fit, strict=True)
        )
        return _Made("maps", result, maps_summary(result), partial(plot_maps, result, drawn), line)

    _run(study, library, out, quick, work)


@networks.command()
def noise(
    library: LibraryFile = None,
    out: Out = Path("out/networks/noise"),
    labels: Labels = "fit",
    thickness: Thickness = 100.0,
    tilt: Tilt = 0.0,
    azimuth: Azimuth = 0.0,
    epochs: Epochs = 60,
    fields: Fields = 1,
    network: Network = "baseline",
    seed: Seed = 0,
    quick: Quick = False,
    device: Device = "auto",
) -> None:
    """Vary dose and the size of the window: test RMSE beside that of column fits at the same doses.

    Example: tiltsim networks noise --library library.nc --out out/noise
    """
    study = NetworkStudy(
        labels=labels, thickness=thickness, tilt=tilt, azimuth=azimuth, epochs=epochs, fields=fields,  # type: ignore[arg-type]  # checked there
        network=network, seed=seed, device=device,
    )  # fmt: skip

    def work(settled: NetworkStudy, response: Library, bars: Bars) -> _Made:
        result = noise_study(settled, response, reporter=bars)
        best = result.rmse.argmin(["dose", "window"])
        line = f"smallest test RMSE {float(result.rmse.min()):.1f} pm, window {float(result.window[best['window']]):g} Å"
        return _Made("noise", result, noise_summary(result), partial(plot_noise, result), line)

    _run(study, library, out, quick, work)


@networks.command()
def cross(
    library: LibraryFile = None,
    out: Out = Path("out/networks/cross"),
    labels: Labels = "fit",
    dose: Dose = 5e4,
    thickness: Thickness = 100.0,
    tilt: Tilt = 0.0,
    azimuth: Azimuth = 0.0,
    epochs: Epochs = 60,
    fields: Fields = 1,
    network: Network = "baseline",
    seed: Seed = 0,
    quick: Quick = False,
    device: Device = "auto",
) -> None:
    """Train on one composition and test on each: matrices of RMSE and R².

    Example: tiltsim networks cross --library library.nc --out out/cross
    """
    study = NetworkStudy(
        labels=labels, dose_per_A2=dose, thickness=thickness, tilt=tilt, azimuth=azimuth, epochs=epochs,  # type: ignore[arg-type]  # checked there
        fields=fields, network=network, seed=seed, device=device,
    )  # fmt: skip

    def work(settled: NetworkStudy, response: Library, bars: Bars) -> _Made:
        result = cross_study(settled, response, reporter=bars)
        line = f"test RMSE from {float(result.rmse.min()):.1f} to {float(result.rmse.max()):.1f} pm"
        return _Made("cross", result, cross_summary(result), partial(plot_cross, result), line)

    _run(study, library, out, quick, work)


@networks.command()
def centred(
    library: LibraryFile = None,
    out: Out = Path("out/networks/centred"),
    labels: Labels = "fit",
    thickness: Thickness = 100.0,
    tilt: Tilt = 0.0,
    azimuth: Azimuth = 0.0,
    window: Annotated[float, typer.Option(help="Side of all windows, Å.")] = 6.0,
    component: Component = "x",
    epochs: Epochs = 60,
    fields: Fields = 1,
    network: Network = "baseline",
    seed: Seed = 0,
    quick: Quick = False,
    device: Device = "auto",
) -> None:
    """Hold windows on B columns, on A columns and anywhere against each other and column fits, at three doses.

    Example: tiltsim networks centred --library library.nc --out out/centred
    """
    drawn = _component(component)
    study = NetworkStudy(
        labels=labels, thickness=thickness, tilt=tilt, azimuth=azimuth, epochs=epochs, fields=fields,  # type: ignore[arg-type]  # checked there
        network=network, seed=seed, device=device,
    )  # fmt: skip

    def work(settled: NetworkStudy, response: Library, bars: Bars) -> _Made:
        result = centred_study(settled, response, size_angstrom=window, reporter=bars)
        high = result.isel(dose=-1)
        line = f"test RMSE at {float(high.dose):.0e} e/Å², pm: " + ", ".join(
            f"{way} {float(high.rmse.sel(way_tested=way)):.1f}" for way in high.way_tested.values
        )
        return _Made("centred", result, centred_summary(result), partial(plot_centred, result, drawn), line)

    _run(study, library, out, quick, work)


@networks.command()
def features(
    library: LibraryFile = None,
    out: Out = Path("out/networks/features"),
    model: ModelFile = None,
    labels: Labels = "truth",
    dose: Dose = 5e4,
    thickness: Thickness = 100.0,
    epochs: Epochs = 30,
    fields: Fields = 60,
    network: Network = "baseline",
    seed: Seed = 0,
    quick: Quick = False,
    device: Device = "auto",
) -> None:
    """Look at the feature maps of every layer, what they respond to, and how well d and tilt can be read from each.

    Without --model a network is trained on tilted fields, on d and tilt (with --labels fit on d alone).

    Example: tiltsim networks features --library library.nc --model out/net/model.safetensors --out out/features
    """
    study = NetworkStudy(
        labels=labels, dose_per_A2=dose, thickness=thickness, epochs=epochs, fields=fields, network=network, seed=seed, device=device,  # type: ignore[arg-type]  # checked there
    )  # fmt: skip

    def work(settled: NetworkStudy, response: Library, bars: Bars) -> _Made:
        seen, windowed = _looked_into(settled, response, model, quick, bars)
        result = features_study(seen, windowed)
        last = result.r2.isel(layer=-1)
        line = "R² read from the last layer: " + ", ".join(
            f"{q} {float(last.sel(quantity=q)):.2f}" for q in result["quantity"].values
        )
        return _Made("features", result, features_summary(result), partial(plot_features, result), line)

    _run(study, library, out, quick, work)


@networks.command()
def saliency(
    library: LibraryFile = None,
    out: Out = Path("out/networks/saliency"),
    model: ModelFile = None,
    labels: Labels = "truth",
    dose: Dose = 5e4,
    thickness: Thickness = 100.0,
    epochs: Epochs = 30,
    fields: Fields = 60,
    network: Network = "baseline",
    seed: Seed = 0,
    quick: Quick = False,
    device: Device = "auto",
) -> None:
    """Show where on the cell a network reads d and where tilt, by integrated gradients and by saliency.

    Without --model a network is trained on tilted fields, on d and tilt (with --labels fit on d alone).

    Example: tiltsim networks saliency --library library.nc --model out/net/model.safetensors --out out/saliency
    """
    study = NetworkStudy(
        labels=labels, dose_per_A2=dose, thickness=thickness, epochs=epochs, fields=fields, network=network, seed=seed, device=device,  # type: ignore[arg-type]  # checked there
    )  # fmt: skip

    def work(settled: NetworkStudy, response: Library, bars: Bars) -> _Made:
        seen, windowed = _looked_into(settled, response, model, quick, bars)
        result = saliency_study(seen, windowed, cells=150 if quick else 600)
        on = result.on_site.sel(method="integrated_gradients")
        line = "read on columns: " + ", ".join(
            f"{t} "
            + "/".join(f"{100 * float(on.sel(target=t, site=s)):.0f} % {s}" for s in result.site.values)
            for t in result.target.values
        )
        return _Made("saliency", result, saliency_summary(result), partial(plot_saliency, result), line)

    _run(study, library, out, quick, work)


def _looked_into(
    study: NetworkStudy, library: Library, model: Path | None, quick: bool, bars: Bars
) -> tuple[dcnn.Model, Any]:
    """The model, trained or read, and windows of fields that it has not seen."""
    count = min(study.fields, 10) if quick else study.fields
    seen = fresh_model(study, library, count, bars) if model is None else dcnn.load(model)
    fields = tilted_fields(study, library, 4 if quick else 24, first=_HELD_OUT, reporter=bars)
    return seen, windows_of(seen, fields)
