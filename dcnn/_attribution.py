"""Where on the cell a network reads: integrated gradients, and plain saliency."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from dcnn._errors import ModelError
from dcnn._model import Model
from dcnn._readout import as_windows, channel, network_on_windows

Method = Literal["integrated_gradients", "saliency"]
"""Integrals of the gradient along the way from the mean window; or the gradient at the window itself."""

_STEPS = 32  # of the integral; Gauss–Legendre, exact to 1e-4 of an output for networks of this size
_WINDOWS = 32  # at once, each as many times as there are steps


def attributions(
    model: Model,
    stack: NDArray[Any],
    target: str = "d_x",
    method: Method = "integrated_gradients",
    *,
    steps: int = _STEPS,
) -> NDArray[np.float64]:
    """What every sample of every window adds to the network's answer.

    Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) begin at the mean window of the set and add up, window
    by window, to the difference between the answer for that window and that for the mean window. Saliency (Simonyan
    et al. 2013, arXiv:1312.6034) is the gradient alone: what a small change of a sample would do.

    Parameters
    ----------
    model : Model
        Of network "baseline" or "residual".
    stack : ndarray, shape (n, pixels, pixels)
        Windows from `sub_images`.
    target : str
        "d_x", "d_y", or where the model predicts them "tilt_x", "tilt_y", "thickness".
    method : {"integrated_gradients", "saliency"}
    steps : int
        Of the integral.

    Returns
    -------
    ndarray, shape (n, pixels, pixels)
        In the network's standardised units; saliency per unit of contrast.

    Raises
    ------
    ModelError
        If windows, target or method do not fit.
    """
    if method not in get_args(Method):
        raise ModelError(f"method must be one of {', '.join(get_args(Method))}, not {method!r}.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ModelError(f"steps must be a whole number of at least 1, not {steps!r}.")
    network, windows, which = network_on_windows(model), as_windows(model, stack), channel(model, target)
    windows = windows.to(next(network.parameters()).device)
    mean = windows.mean(dim=0, keepdim=True)

    def answer(part: torch.Tensor) -> torch.Tensor:
        return network(part)[:, which]

    parts = []
    for part in windows.split(_WINDOWS):
        if method == "saliency":
            parts.append(_gradient(answer, part))
        else:
            # Imported here: it takes as long as the rest of the package, and few need it.
            from captum.attr import IntegratedGradients

            integral = IntegratedGradients(answer)
            parts.append(integral.attribute(part, baselines=mean, n_steps=steps, method="gausslegendre"))
    return torch.cat(parts).detach().cpu().numpy().astype(np.float64)


def attribution(
    model: Model,
    stack: NDArray[Any],
    target: str = "d_x",
    method: Method = "integrated_gradients",
) -> NDArray[np.float64]:
    """Where on the cell the network reads ``target``, over many cells: shares that add up to 1.

    With integrated gradients the share of a sample is that of the answers' variance about the answer for the mean window:
    Σ aᵢ (fᵢ − f₀) / Σ (fᵢ − f₀)², where aᵢ is what the sample adds to the answer fᵢ for cell i. It is negative where
    the network holds against the answer what it sees there. With saliency the share is that of the mean size of the gradient.

    Parameters
    ----------
    model, stack, target, method
        As in `attributions`.

    Returns
    -------
    ndarray, shape (pixels, pixels)
        Rows down the cell, columns to the right; dimensionless.

    Raises
    ------
    ModelError
        If windows, target or method do not fit, or the answer is the same for all windows.
    """
    each = attributions(model, stack, target, method)
    if method == "saliency":
        size = np.abs(each).mean(axis=0)
    else:
        # By completeness a window's sum is its answer less that for the mean window.
        size = np.tensordot(each.sum(axis=(1, 2)), each, axes=1)
    total = float(size.sum())
    if not total > 0:
        raise ModelError(f"The network answers {target} alike for all windows; pass windows that differ.")
    return np.asarray(size / total)


def _gradient(answer: Callable[[torch.Tensor], torch.Tensor], part: torch.Tensor) -> torch.Tensor:
    part = part.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(answer(part).sum(), part)
    return gradient
