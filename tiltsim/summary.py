"""The numbers of a study in one JSON-able table."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr

import structures
from tiltsim.config import Study
from tiltsim.networks import MODES


def summarise(
    study: Study,
    images: xr.Dataset,
    response: xr.Dataset,
    cells: xr.Dataset,
    networks: dict[str, Any],
    specimens: Sequence[structures.Specimen],
) -> dict[str, Any]:
    """The numbers of a study, JSON-able."""
    slopes = []
    for phase in response.phase.values:
        for thickness in response.thickness.values:
            one = response.sel(phase=phase, thickness=thickness)
            for component in ("x", "y"):
                along = one.sel(component=component, tilt_axis=component)
                on_axis = along.sel(tilt_x=0.0, tilt_y=0.0)
                slopes.append(
                    {
                        "phase": str(phase),
                        "thickness_angstrom": float(thickness),
                        "thickness_actual_angstrom": float(one.thickness_actual),
                        "along": component,
                        "A_pm_per_mrad": float(along.shift_per_mrad.sel(site="A")),
                        "A_sem": float(along.shift_per_mrad_sem.sel(site="A")),
                        "B_pm_per_mrad": float(along.shift_per_mrad.sel(site="B")),
                        "B_sem": float(along.shift_per_mrad_sem.sel(site="B")),
                        "bias_pm_per_mrad": float(along.d_bias_per_mrad),
                        "bias_sem": float(along.d_bias_per_mrad_sem),
                        "bias_at_zero_pm": float(on_axis.d_bias),
                        "bias_at_zero_sem": float(on_axis.d_bias_sem),
                    }
                )
    return {
        "title": study.title,
        "tiltsim_version": version("tiltsim"),
        "tilt_response": slopes,
        "specimens": [
            {
                "name": s.name,
                "thickness_angstrom": s.thickness,
                "atoms": len(s.atoms),
                "lean_mrad": list(s.lean_mrad),
                "d_true_pm": s.truth.cell_d.mean("cell").values,
                "polarization_uC_per_cm2": np.asarray(s.polarization),
                "assumptions": list(s.specification.get("assumptions", [])),
            }
            for s in specimens
        ],
        "networks": {
            **{mode: networks[mode]["metrics"] for mode in MODES},
            "fit_on_test_part": networks["fit"][(0.0, 0.0)],
        },
        "cells": int(cells.sizes["cell"]),
        "columns_per_site": {
            str(phase): int(response.samples.sel(phase=phase).min()) for phase in response.phase.values
        },
        "study": study.as_dict(),
        "tilt_convention": images.attrs["tilt_convention"],
    }
