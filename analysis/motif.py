"""Which columns one cell holds, and where."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .errors import ImageError

Floats = NDArray[np.float64]

_AROUND = 0.2  # of the nearest distance: A columns not farther than this beyond it surround B
_MOST = 4  # A columns around B
_SAME_PLACE = 0.02  # of a cell


@dataclass(frozen=True)
class Motif:
    """Columns of one cell.

    Attributes
    ----------
    name : str
        Of the lattice, for messages and tables.
    sites : tuple of (str, float, float)
        Label and place of every column as fractions of a and b. The first is ("A", 0, 0); "B" is the centre that d is
        measured for; all others are only fitted.
    ratio : float
        |b|/|a| that is expected; used only to find the cell.
    angle : float
        Between a and b, degrees; used only to find the cell.

    Raises
    ------
    ImageError
        A site is misplaced, or the cell is no cell.

    Examples
    --------
    >>> Motif("boron nitride", (("A", 0, 0), ("B", 1 / 3, 2 / 3)), angle=120).a_offsets.tolist()
    [[0, 0], [0, 1], [1, 1]]
    """

    name: str
    sites: tuple[tuple[str, float, float], ...]
    ratio: float = 1.0
    angle: float = 90.0

    def __post_init__(self) -> None:
        where = f"motif {self.name!r}:"
        if not self.name:
            raise ImageError("motif: its name is empty; give it one.")
        if not self.sites or tuple(self.sites[0]) != ("A", 0, 0):
            raise ImageError(f'{where} its first site must be ("A", 0, 0); move the origin there.')
        for site in self.sites:
            if len(site) != 3 or not isinstance(site[0], str) or not site[0]:
                raise ImageError(f'{where} the site {site!r} must read ("label", fraction along a, along b).')
            if not all(0 <= f < 1 for f in site[1:]):
                raise ImageError(f"{where} the fractions of site {site!r} must lie in [0, 1); reduce them.")
        if "B" not in self.labels:
            raise ImageError(f'{where} has no site "B"; name the column "B" that d is to be measured for.')
        if len(set(self.labels)) < len(self.labels):
            raise ImageError(f"{where} two of its sites have one label; give each its own.")
        gaps = self.fractions[:, None] - self.fractions
        gaps = np.abs(gaps - np.rint(gaps)).max(-1)
        if (gaps[np.triu_indices(len(gaps), 1)] < _SAME_PLACE).any():
            raise ImageError(f"{where} two of its sites are on one place; remove one.")
        if not 20 < self.angle < 160:
            raise ImageError(f"{where} angle={self.angle} must lie between 20 and 160 degrees.")
        if not 0.2 < self.ratio < 5:
            raise ImageError(f"{where} ratio={self.ratio} must lie between 0.2 and 5.")

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the sites, in their order."""
        return tuple(site[0] for site in self.sites)

    @property
    def fractions(self) -> Floats:
        """(n, 2) places of the sites in units of a and b."""
        return np.array([site[1:] for site in self.sites], float)

    @property
    def centre(self) -> int:
        """Which site is the B that d is measured for."""
        return self.labels.index("B")

    @property
    def a_offsets(self) -> NDArray[np.int64]:
        """Indices (n, 2) of the A columns that surround B, relative to B's cell.

        Those of the ideal cell, so that strain and shear change nothing.
        """
        return self.surroundings(self.centre)

    def surroundings(self, site: int) -> NDArray[np.int64]:
        """The same for any site: at most four, all within a fifth of the shortest distance."""
        angle = np.radians(self.angle)
        vectors = np.array([(1.0, 0.0), (self.ratio * np.cos(angle), self.ratio * np.sin(angle))])
        reach = int(np.ceil(2 / min(self.ratio, 1.0) / np.sin(angle)))
        span = range(-reach, reach + 1)
        offsets = np.array(list(product(span, span)))
        distance = np.hypot(*((self.fractions[site] - offsets) @ vectors).T)
        order = np.lexsort((np.arange(len(offsets)), np.round(distance, 6)))[:_MOST]
        near = order[distance[order] <= (1 + _AROUND) * distance[order[0]]]
        return offsets[np.sort(near)]

    def turned(self) -> Motif:
        """The same columns with a and b exchanged."""
        sites = tuple((label, v, u) for label, u, v in self.sites)
        return Motif(self.name, sites, 1 / self.ratio, self.angle)


#: Perovskites along [100], B in the middle of four A, and along [110], B half-way between two A.
MOTIFS: dict[str, Motif] = {
    "100": Motif("100", (("A", 0.0, 0.0), ("B", 0.5, 0.5))),
    "110": Motif("110", (("A", 0.0, 0.0), ("B", 0.5, 0.0)), ratio=float(np.sqrt(0.5))),
}


def perovskites(zone: str) -> tuple[Motif, ...]:
    """The motif of a zone in every orientation that differs, or of all zones for "auto"."""
    chosen = MOTIFS.values() if zone == "auto" else (MOTIFS[zone],)
    return tuple(dict.fromkeys(m for motif in chosen for m in (motif, motif.turned())))
