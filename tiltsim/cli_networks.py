"""The verbs ``networks …``: what the published studies of networks show, each one command and one figure."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tiltsim.cli_network_options import (
    Azimuth,
    Component,
    Dose,
    Epochs,
    Fields,
    Labels,
    LibraryFile,
    Made,
    ModelFile,
    Network,
    Quick,
    Seed,
    Thickness,
    Tilt,
    looked_into,
    one_component,
    run,
)
from tiltsim.cli_options import Device, Out
from tiltsim.library import Library
from tiltsim.network_studies import (
    NetworkStudy,
    centred_study,
    centred_summary,
    cross_study,
    cross_summary,
    features_study,
    features_summary,
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
)
from tiltsim.progress import Bars

networks = typer.Typer(
    help="Studies of networks after Nelson et al., npj Comput. Mater. 7, 149 (2021), on synthetic fields whose truth is "
    "known: each one command and one figure.",
    no_args_is_help=True,
)


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
    drawn = one_component(component)
    study = NetworkStudy(
        labels=labels, dose_per_A2=dose, thickness=thickness, tilt=tilt, azimuth=azimuth, epochs=epochs,  # type: ignore[arg-type]  # checked there
        network=network, seed=seed, device=device,
    )  # fmt: skip

    def work(settled: NetworkStudy, response: Library, bars: Bars) -> Made:
        result = maps_study(settled, response, reporter=bars)
        line = "test RMSE, pm: " + ", ".join(
            f"{100 * float(s):.0f} % Sm {float(n):.1f} (fit {float(f):.1f})"
            for s, n, f in zip(result.composition, result.rmse_network, result.rmse_fit, strict=True)
        )
        return Made("maps", result, maps_summary(result), partial(plot_maps, result, drawn), line)

    run(study, library, out, quick, work)


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

    def work(settled: NetworkStudy, response: Library, bars: Bars) -> Made:
        result = noise_study(settled, response, reporter=bars)
        best = result.rmse.argmin(["dose", "window"])
        line = f"smallest test RMSE {float(result.rmse.min()):.1f} pm, window {float(result.window[best['window']]):g} Å"
        return Made("noise", result, noise_summary(result), partial(plot_noise, result), line)

    run(study, library, out, quick, work)


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

    def work(settled: NetworkStudy, response: Library, bars: Bars) -> Made:
        result = cross_study(settled, response, reporter=bars)
        line = f"test RMSE from {float(result.rmse.min()):.1f} to {float(result.rmse.max()):.1f} pm"
        return Made("cross", result, cross_summary(result), partial(plot_cross, result), line)

    run(study, library, out, quick, work)


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
    drawn = one_component(component)
    study = NetworkStudy(
        labels=labels, thickness=thickness, tilt=tilt, azimuth=azimuth, epochs=epochs, fields=fields,  # type: ignore[arg-type]  # checked there
        network=network, seed=seed, device=device,
    )  # fmt: skip

    def work(settled: NetworkStudy, response: Library, bars: Bars) -> Made:
        result = centred_study(settled, response, size_angstrom=window, reporter=bars)
        high = result.isel(dose=-1)
        line = f"test RMSE at {float(high.dose):.0e} e/Å², pm: " + ", ".join(
            f"{way} {float(high.rmse.sel(way_tested=way)):.1f}" for way in high.way_tested.values
        )
        return Made("centred", result, centred_summary(result), partial(plot_centred, result, drawn), line)

    run(study, library, out, quick, work)


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

    def work(settled: NetworkStudy, response: Library, bars: Bars) -> Made:
        seen, windowed = looked_into(settled, response, model, quick, bars)
        result = features_study(seen, windowed)
        last = result.r2.isel(layer=-1)
        line = "R² read from the last layer: " + ", ".join(
            f"{q} {float(last.sel(quantity=q)):.2f}" for q in result["quantity"].values
        )
        return Made("features", result, features_summary(result), partial(plot_features, result), line)

    run(study, library, out, quick, work)


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

    def work(settled: NetworkStudy, response: Library, bars: Bars) -> Made:
        seen, windowed = looked_into(settled, response, model, quick, bars)
        result = saliency_study(seen, windowed, cells=150 if quick else 600)
        on = result.on_site.sel(approach="integrated_gradients")
        line = "read on columns: " + ", ".join(
            f"{t} "
            + "/".join(f"{100 * float(on.sel(target=t, site=s)):.0f} % {s}" for s in result.site.values)
            for t in result.target.values
        )
        return Made("saliency", result, saliency_summary(result), partial(plot_saliency, result), line)

    run(study, library, out, quick, work)
