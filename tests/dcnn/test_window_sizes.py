import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcnn import ModelError
from dcnn._window_sizes import window_angstrom


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (6, 6.0),
        (5.94, 5.94),
        (np.float64(7.5), 7.5),
        ("6", 6.0),
        ("6.", 6.0),
        ("6A", 6.0),
        ("6Å", 6.0),
        ("6 \u212b", 6.0),
        ("6 A\u030a", 6.0),
        (" 6.5 angstrom ", 6.5),
        ("6e0", 6.0),
        ("1.5cells", 5.94),
        ("2 cells", 7.92),
        ("1 cell", 3.96),
        ("1.5uc", 5.94),
        ("30px", 5.4),
        ("30 pixels", 5.4),
    ],
)
def test_sizes_are_read_as_people_write_them(size, expected):
    width = window_angstrom(size, pixel_angstrom=0.18, cell_angstrom=3.96)
    assert type(width) is float
    assert width == expected


@given(
    width=st.floats(2, 100).map(lambda v: float(f"{v:.6g}")),
    pixel=st.floats(0.01, 1).map(lambda v: float(f"{v:.6g}")),
    cell=st.floats(2, 12).map(lambda v: float(f"{v:.6g}")),
)
def test_units_agree(width, pixel, cell):
    in_pixels, in_cells = f"{width / pixel!r}px", f"{width / cell!r}cells"
    assert window_angstrom(in_pixels, pixel_angstrom=pixel) == pytest.approx(width, rel=1e-9)
    assert window_angstrom(in_cells, cell_angstrom=cell) == pytest.approx(width, rel=1e-9)


@pytest.mark.parametrize(
    "size",
    ["", "six", "A", "6 furlongs", "6nm", "6,5", "--6", "6 6", "1.5cells5", "1.5.2", None, True, [6.0]],
)
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ModelError, match=r"^window "):
        window_angstrom(size, pixel_angstrom=0.2, cell_angstrom=4.0)


@pytest.mark.parametrize(
    "size", [0, -6, "-6A", "1px", "0.1cells", "1000", "1e9px", float("nan"), float("inf")]
)
def test_absurd_sizes_are_refused(size):
    with pytest.raises(ModelError, match="must be from 2 to 100 Å"):
        window_angstrom(size, pixel_angstrom=0.2, cell_angstrom=4.0)


def test_a_missing_calibration_is_named_with_its_remedy():
    with pytest.raises(
        ModelError, match="'30px' is in pixels but the pixel size is not known; pass pixel_angstrom"
    ):
        window_angstrom("30px", cell_angstrom=4.0)
    with pytest.raises(ModelError, match=r"'1\.5cells' is in cells but the lattice parameter is not known"):
        window_angstrom("1.5cells", pixel_angstrom=0.2)


@pytest.mark.parametrize("value", [0.0, -0.2, float("nan"), float("inf"), "0.2", True])
def test_an_absurd_calibration_is_refused(value):
    with pytest.raises(ModelError, match="pixel_angstrom must be a finite number above 0"):
        window_angstrom("30px", pixel_angstrom=value)
    with pytest.raises(ModelError, match="cell_angstrom must be a finite number above 0"):
        window_angstrom("2cells", cell_angstrom=value)


def test_every_refusal_is_one_sentence():
    for size, given_ in (
        ("six", {}),
        ("30px", {}),
        ("2cells", {}),
        (0.5, {}),
        ("3px", {"pixel_angstrom": 0.2}),
    ):
        with pytest.raises(ModelError) as caught:
            window_angstrom(size, **given_)
        text = str(caught.value)
        assert text.endswith(".")
        assert text.count(". ") == 0
