"""What can be evaluated, all made to look like :func:`dcnn.predict`: column fitting, our networks and other people's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

import dcnn
from tiltsim.errors import SettingsError
from tiltsim.evaluation import patches
from tiltsim.evaluation.fields import Sight
from tiltsim.pretrained import MODELS, model_path

Kind = Literal["fit", "dcnn", "onnx", "torch", "callable", "estimator"]

#: Half width of a 90 % interval in standard errors.
NORMAL_90 = 1.645

_COMPONENTS = ("x", "y")


@dataclass(frozen=True, eq=False)
class Estimator:
    """Something that finds displacements in an image.

    Parameters
    ----------
    name : str
        As in tables and figures.
    kind : {"fit", "dcnn", "onnx", "torch", "callable", "estimator"}
    predict : callable
        From a :class:`~tiltsim.evaluation.fields.Sight` to a Dataset, dim cell: ``x``, ``y`` (Å), ``d`` (cell, component) pm,
        and where it has them ``d_interval`` (half width of 90 %), ``tilt`` and ``tilt_interval`` (cell, component) mrad,
        ``thickness`` and ``thickness_interval`` Å, ``novelty``, also as an attribute of the whole image.
    digest : str
        Of the file it comes from; empty for what lives in memory, whose results are not kept from run to run.
    about : dict
        JSON-able: what the card says of it.
    """

    name: str
    kind: Kind
    predict: Callable[[Sight], xr.Dataset]
    digest: str
    about: dict[str, Any]


def estimator(
    spec: Any, *, windows: dcnn.Windows | None = None, name: str | None = None, device: str = "auto"
) -> Estimator:
    """An estimator from what the user names.

    Parameters
    ----------
    spec : str, Path, dcnn.Model, torch.nn.Module or callable
        ``"fit"``: column fitting. A file: ``.safetensors`` of :func:`dcnn.save`; ``.onnx``; ``.pt2`` of
        ``torch.export.save``. ``"module.py:function"`` or ``"package.module:function"``. Or a Python object. What is not
        of this toolkit gets patches (n, p, p), float32, zero mean and unit standard deviation, centred on B columns, and
        returns d (n, 2) in pm, or (n, 4) with half widths of 90 % intervals. ``"label=spec"`` gives it a name. Files
        ``.safetensors`` and ``.onnx`` are data; all others run code, so take them from people you trust.
    windows : dcnn.Windows, optional
        Width and samples of those patches; default 6 Å and 24.
    name : str, optional
        As in tables and figures.
    device : str
        For this toolkit's networks: "auto", or a name torch knows.

    Returns
    -------
    Estimator

    Raises
    ------
    SettingsError, dcnn.ModelError
        If there is no such thing, or it cannot be read.
    """
    if isinstance(spec, Estimator):
        return spec
    windows = windows or dcnn.Windows()
    if isinstance(spec, str | Path):
        text = str(spec)
        label, equals, rest = text.partition("=")
        if equals and re.fullmatch(r"[\w .+-]+", label) and not Path(text).exists():
            text, name = rest, name or label.strip()
        return _from_text(text, windows, name, device)
    if isinstance(spec, dcnn.Model):
        return _ours(spec, name or "model", "", device)
    if isinstance(spec, torch.nn.Module):
        name = name or type(spec).__name__
        return _foreign(patches.from_module(spec, name), name, "torch", "", windows)
    if callable(spec):
        name = name or str(getattr(spec, "__name__", type(spec).__name__))
        return _foreign(patches.from_callable(spec, name), name, "callable", "", windows)
    raise SettingsError(
        f"{spec!r} cannot be evaluated; give 'fit', a model file, 'module.py:function' or a callable."
    )


def estimators(
    specs: Any, *, windows: dcnn.Windows | None = None, device: str = "auto", fit: bool = True
) -> tuple[Estimator, ...]:
    """Estimators from one or several specs, or a mapping of names to specs, each under a name of its own.

    Column fitting comes first where ``fit`` is set and nobody has named it.
    """
    if isinstance(specs, Mapping):
        made = [estimator(s, windows=windows, name=str(n), device=device) for n, s in specs.items()]
    else:
        listed: Iterable[Any] = specs if isinstance(specs, list | tuple) else [specs]
        made = [estimator(s, windows=windows, device=device) for s in listed]
    if fit and not any(one.kind == "fit" for one in made):
        made.insert(0, estimator("fit"))
    if not made:
        raise SettingsError("MODEL: name at least one model, or leave the column fit in.")
    names = [one.name for one in made]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SettingsError(f"two models are named {twice[0]!r}; name them apart, as in first={twice[0]}.")
    return tuple(made)


def _from_text(text: str, windows: dcnn.Windows, name: str | None, device: str) -> Estimator:
    if text == "fit":
        return Estimator(name or "fit", "fit", _fit, "fit", {"what": "column fitting, analysis.measure"})
    name = name or (text if text in MODELS else None)
    path = model_path(text)
    suffix = path.suffix.lower()
    if ":" in text and suffix not in (".safetensors", ".onnx", ".pt2"):
        found, label = patches.imported(text), name or text.rpartition(":")[2]
        source = Path(text.rpartition(":")[0])
        # Of its own file only: a module may import others, and those results would be kept wrongly.
        about = {"source": str(source)}
        if isinstance(found, torch.nn.Module):
            made = _foreign(patches.from_module(found, text), label, "torch", "", windows)
        else:
            made = _foreign(patches.from_callable(found, text), label, "callable", "", windows)
        made.about.update(about)
        return made
    if suffix in (".pt", ".pth", ".pkl", ".ckpt", ".joblib"):
        raise SettingsError(
            f"{text}: pickled models run hidden code when read; export it as .onnx, or with torch.export.save as .pt2."
        )
    if suffix not in (".safetensors", ".onnx", ".pt2"):
        raise SettingsError(
            f"{text!r} is no model; give 'fit', a .safetensors, .onnx or .pt2 file, or 'module.py:function'."
        )
    if not path.is_file():
        raise SettingsError(f"{text}: no such model file; check the path.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # `tiltsim train` calls every file model.safetensors, and its folder says which it is.
    name = name or (path.absolute().parent.name if path.stem == "model" else path.stem)
    if suffix == ".safetensors":
        made = _ours(dcnn.load(path), name, digest, device)
    elif suffix == ".onnx":
        made = _foreign(patches.from_onnx(path, windows.pixels), name, "onnx", digest, windows)
    else:
        made = _foreign(patches.from_exported(path, windows.pixels), name, "torch", digest, windows)
    made.about.update(file=path.name, sha256=digest)
    return made


def _fit(sight: Sight) -> xr.Dataset:
    cells = sight.cells.isel(cell=np.flatnonzero(sight.cells.flag.values == 0))
    variance = np.diagonal(cells.d_cov.values, axis1=1, axis2=2)
    found = cells[["x", "y", "d"]].transpose("cell", "component", missing_dims="ignore")
    found["d_interval"] = (("cell", "component"), NORMAL_90 * np.sqrt(variance), {"units": "pm"})
    return found


def _ours(model: dcnn.Model, name: str, digest: str, device: str) -> Estimator:
    if getattr(model.windows, "site", "B") != "B":
        raise SettingsError(
            f"{name} looks at A columns, but displacements are compared at B columns; train with site 'B'."
        )

    def predict(sight: Sight) -> xr.Dataset:
        return dcnn.predict(model, sight.image, sight.cells, device=device)

    weights = sum(w.numel() for w in model.network.state_dict().values())
    about = {"what": "network of tiltsim", "weights": weights, "settings": model.card["settings"]}
    return Estimator(name, "dcnn", predict, digest, about)


def _foreign(run: patches.Batch, name: str, kind: Kind, digest: str, windows: dcnn.Windows) -> Estimator:
    if windows.mode != "centred":
        raise SettingsError("window: other people's networks get patches centred on B columns only.")

    def predict(sight: Sight) -> xr.Dataset:
        cut = dcnn.sub_images(sight.image, windows, sight.cells)
        stack = cut.intensity.values
        table: NDArray[np.float64] = run(stack) if len(stack) else np.empty((0, 2))
        found = xr.Dataset(
            {axis: ("cell", cut[axis].values, {"units": "Å"}) for axis in _COMPONENTS},
            coords={"component": list(_COMPONENTS)},
        )
        found["d"] = (("cell", "component"), table[:, :2], {"units": "pm"})
        if table.shape[1] == 4:
            found["d_interval"] = (("cell", "component"), table[:, 2:], {"units": "pm"})
        return found

    about = {
        "what": f"patches of {windows.size_angstrom:g} Å, {windows.pixels} × {windows.pixels} samples, on B columns",
    }
    # Patches are part of what is evaluated.
    key = f"{digest}:{windows.size_angstrom!r}:{windows.pixels}" if digest else ""
    return Estimator(name, kind, predict, key, about)
