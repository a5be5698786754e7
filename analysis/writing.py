"""Write results so that a file is either whole or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from analysis.errors import ImageError


def write_dataset(ds: xr.Dataset, path: str | Path) -> Path:
    """Write netCDF4, compressed, under a temporary name that is then renamed.

    Parameters
    ----------
    ds : xr.Dataset
    path : str or Path
        Folders are made.

    Returns
    -------
    Path

    Raises
    ------
    ImageError
        If there is no room or no permission; neither a part of it nor a temporary file is left.
    """
    encoding = {
        str(name): {"zlib": True, "complevel": 4}
        for name, variable in ds.variables.items()
        if np.issubdtype(variable.dtype, np.floating) and variable.ndim
    }
    return write_whole(
        Path(path),
        lambda temporary: ds.to_netcdf(temporary, engine="netcdf4", format="NETCDF4", encoding=encoding),
    )


def save(figure: Figure, stem: str | Path) -> tuple[Path, Path]:
    """Write a figure as PNG (200 dpi) and SVG.

    Parameters
    ----------
    figure : Figure
    stem : str or Path
        Path without the suffix; folders are made.

    Returns
    -------
    tuple of Path
        PNG, SVG.
    """
    base = Path(stem)
    png, svg = (
        write_whole(
            base.parent / f"{base.name}.{kind}",
            lambda temporary, kind=kind: figure.savefig(temporary, format=kind, dpi=200),  # type: ignore[misc]
        )
        for kind in ("png", "svg")
    )
    return png, svg


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file beside `path`, then rename it.

    Parameters
    ----------
    path : Path
        Folders are made.
    write : callable
        Takes the temporary path.

    Returns
    -------
    Path

    Raises
    ------
    ImageError
        If there is no room or no permission; neither a part of it nor a temporary file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        # mkstemp makes private files; a result is as readable as any other file of the user.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # netCDF4 has a RuntimeError for a full disk
        raise ImageError(
            f"{path.name} cannot be written ({getattr(error, 'strerror', None) or error}); make room in "
            f"{path.parent} or give another --out."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path
