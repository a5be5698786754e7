"""Images of uniform crystals over one period, from a library, and how they change with every unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tiltsim.errors import SettingsError
from tiltsim.lens import COMPONENTS
from tiltsim.library.response import Library, Parameter, column_share

Floats = NDArray[np.float64]

#: What of the specimen an image depends on here, and its units.
SPECIMEN: dict[Parameter, str] = {
    "tilt_x": "mrad",
    "tilt_y": "mrad",
    "thickness": "Å",
    "d_x": "pm",
    "d_y": "pm",
}

#: Samples of a period along each axis: the engine's images need 15 to 20.
SAMPLES = 40


def library_periods(
    library: Library, tilt: ArrayLike, thickness: ArrayLike, d: ArrayLike, *, material: ArrayLike = 0,
    samples: int = SAMPLES, aberrations: ArrayLike | None = None, edges: ArrayLike | None = None,
    samarium: ArrayLike = 0.0,
) -> tuple[Floats, dict[str, Floats]]:  # fmt: skip
    """Images of uniform crystals over one period, an A column at the origin, and their derivatives.

    Parameters
    ----------
    library : Library
    tilt, d : array_like, shape (..., 2)
        mrad, pm.
    thickness : array_like, shape (...)
        Å.
    material : array_like of int, shape (...)
        Index into the library's materials.
    samples : int
        Along each axis of a period.
    aberrations : array_like, shape (..., 5), optional
        :data:`tiltsim.lens.COMPONENTS`, Å, of a library with a lens.
    edges : array_like, shape (..., 2), optional
        Of the cell along x and y, Å, where it is strained: columns keep their images and stand further apart.
    samarium : array_like, shape (...)
        Fraction.

    Returns
    -------
    image : ndarray, shape (..., samples, samples)
        Fraction of the beam, without a source: the same as :meth:`Library.uniform_image`.
    slopes : dict of str to ndarray, same shape
        By each of :data:`SPECIMEN`, per its unit, and with ``aberrations`` by each of them.

    Raises
    ------
    SettingsError
        If a state lies beyond the library, or the library has no lens.
    """
    d, material = np.asarray(d, dtype=float), np.asarray(material)
    shape = d.shape[:-1]
    state = {"tilt": tilt, "thickness": thickness, "d": d, "material": material, "samarium": samarium}
    axis = np.arange(samples) / samples
    own = np.broadcast_to(np.array(list(library.edges.values()))[material], shape)[..., None]
    scale = np.ones((*shape, 2)) if edges is None else np.broadcast_to(edges, (*shape, 2)) / own
    step = 0.01 / own / scale  # 1 pm in cells
    # B stands at half a cell less d; the images of A and B columns fade into each other as in a painted field.
    at_b = 0.5 - d * step
    pictures: dict[str, list[Floats]] = {}
    for site in ("A", "B"):
        orders, listed = _coefficients(library, site, state, aberrations)
        place = np.zeros_like(at_b) if site == "A" else at_b
        away = axis - place[..., None]
        away = (away - np.round(away)) * scale[..., None]
        along_x, along_y = (np.exp(2j * np.pi * away[..., i, :, None] * orders) for i in (0, 1))
        if site == "B":  # with d, B moves
            turn = 0.02j * np.pi * orders / own[..., None]
            listed["d_x"] = listed["d_x"] + listed[""] * turn
            listed["d_y"] = listed["d_y"] + listed[""] * np.swapaxes(turn, -1, -2)
        drawn = np.real(along_y @ np.stack(list(listed.values())) @ np.swapaxes(along_x, -1, -2))
        for name, picture in zip(listed, drawn, strict=True):
            pictures.setdefault(name, []).append(picture)
    share_a = column_share(axis, axis[:, None])

    def share_b(shift: tuple[float, float]) -> Floats:
        x, y = (axis - (at_b[..., i, None] - shift[i] * step[..., i, None]) for i in (0, 1))
        return column_share(x[..., None, :], y[..., :, None])

    b = share_b((0.0, 0.0))
    total = share_a + b
    of_a, of_b = pictures.pop("")
    slopes = {n: (share_a * of[0] + b * of[1]) / total for n, of in pictures.items()}
    for name, (i, j) in {"d_x": (1.0, 0.0), "d_y": (0.0, 1.0)}.items():
        fading = (share_b((i, j)) - share_b((-i, -j))) / 2.0
        slopes[name] += fading * share_a * (of_b - of_a) / total**2
    return (share_a * of_a + b * of_b) / total, slopes


def _coefficients(
    library: Library, site: str, state: Mapping[str, ArrayLike], aberrations: ArrayLike | None
) -> tuple[Floats, dict[str, NDArray[np.complex128]]]:
    """Orders, and Fourier coefficients (..., order_y, order_x) around a column: of the image, "", and its derivatives."""
    number, names = "AB".index(site), (None, *SPECIMEN)
    orders = library.dataset.order_x.values

    def scores(of_lens: bool, names: Sequence[Parameter | None] = names) -> Floats:
        # What Sm does to the effect of aberrations is not known to the library.
        return library.scores_and_slopes(site, names, **state, of_lens=of_lens).astype(np.float64)  # type: ignore[arg-type]

    plain = np.tensordot(scores(False), library.coefficients[number], (-1, 0))
    found = dict(zip(("", *SPECIMEN), plain, strict=True))
    if aberrations is None:
        return orders, found
    if library.lens is None:
        raise SettingsError("the library knows no aberrations; build it with `tiltsim library build --lens`.")
    lens = np.asarray(aberrations, dtype=float)
    # Without aberrations there is nothing but slopes.
    some = bool(lens.any())
    scored = scores(True, names if some else names[:1])
    lead = np.broadcast_shapes(scored.shape[1:-1], lens.shape[:-1])
    # Axes that only the lenses have come after the derivatives.
    scored = scored.reshape(len(scored), *(1,) * (len(lead) + 2 - scored.ndim), *scored.shape[1:])
    rows = np.broadcast_to(scored, (len(scored), *lead, scored.shape[-1])).reshape(
        len(scored), -1, scored.shape[-1]
    )
    rows = rows.astype(np.float32)
    unlike, which = np.unique(
        np.broadcast_to(lens, (*lead, len(COMPONENTS))).reshape(-1, len(COMPONENTS)),
        axis=0,
        return_inverse=True,
    )
    table = library.lens_coefficients[number]
    kept, opposite = library.lens_orders
    changes = len(scored) if some else 0
    half = np.empty((changes + len(COMPONENTS), rows.shape[1], 2 * len(kept)), dtype=np.float32)
    for place, one in enumerate(unlike):
        # All crystals that are seen through one lens share what its terms come to.
        mine = which.ravel() == place
        basis = np.stack([library.lens.basis(one, n) for n in (None, *range(len(COMPONENTS)))])
        effect = (basis.astype(np.float32) @ table).reshape(len(basis), rows.shape[-1], -1)
        half[:changes, mine] = rows[:changes, mine] @ effect[0]
        half[changes:, mine] = rows[0, mine] @ effect[1:]
    half = half.reshape(len(half), *lead, 2, len(kept))
    whole = half[..., 0, :] + 1j * half[..., 1, :]
    parts = np.zeros((*whole.shape[:-1], len(orders) ** 2), dtype=np.complex64)
    parts[..., opposite] = whole.conj()
    parts[..., kept] = whole
    parts = parts.reshape(*parts.shape[:-1], len(orders), len(orders))
    found = {name: np.broadcast_to(whole, (*lead, *whole.shape[-2:])) for name, whole in found.items()}
    if some:
        for name, part in zip(("", *SPECIMEN), parts, strict=False):
            found[name] = found[name] + part
    return orders, found | dict(zip(COMPONENTS, parts[changes:], strict=True))
