"""Line plots: what is drawn where, ticks, and input without a place."""

import math

import numpy as np
import pytest

from retouch.bench.plot import COLOURS, Axis, line_plot


def coloured(image, colour):
    """Where the picture has exactly a colour, bool [H, W]."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.asarray(image) == rgb).all(2)


@pytest.mark.parametrize(
    ("values", "log", "ticks"),
    [
        ([0, 64], False, [0, 10, 20, 30, 40, 50, 60]),
        ([-0.31, 0.31], False, [-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]),
        ([7], False, [4, 5, 6, 7, 8, 9, 10]),
        ([0], False, [-0.4, -0.2, 0, 0.2, 0.4]),
        ([20, 900], True, [20, 50, 100, 200, 500, 1000]),
        ([1e-4, 10], True, [1e-4, 1e-3, 1e-2, 0.1, 1, 10]),
        ([1e-20, 1], True, [1e-18, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3, 1]),
        ([5], True, [2, 5, 10]),
        ([300, 400], True, [300, 320, 340, 360, 380, 400]),
    ],
)
def test_ticks_are_round(values, log, ticks):
    axis = Axis.of(values, log)
    assert axis.ticks == pytest.approx(ticks)
    assert all(0 <= axis.place(each) <= 1 for each in (*values, *ticks))


def test_places_are_even_in_the_units_of_the_axis():
    linear, log = Axis.of([0, 10], False), Axis.of([1, 100], True)
    assert linear.place(5) == pytest.approx(0.5)
    assert log.place(10) == pytest.approx(0.5)
    assert linear.place(0) == pytest.approx(1 - linear.place(10))


def test_curves_go_where_their_points_are():
    image = line_plot({"up": [(0, 0), (10, 10)], "level": [(0, 2), (10, 2)]}, "x", "y", size=(400, 300))
    assert image.size == (400, 300)
    area = np.s_[:, :330]
    rows, columns = np.nonzero(coloured(image, COLOURS[0])[area])
    assert np.corrcoef(rows, columns)[0, 1] < -0.98
    rows, columns = np.nonzero(coloured(image, COLOURS[1])[area])
    assert np.ptp(rows) < 12
    assert np.ptp(columns) > 200


def test_logarithmic_axes_make_powers_straight():
    curve = [(10.0**x, 10.0 ** (2 * x)) for x in range(5)]
    image = line_plot({"": curve}, "x", "y", log_x=True, log_y=True, size=(400, 300))
    rows, columns = np.nonzero(coloured(image, COLOURS[0])[:, :375])
    assert np.corrcoef(rows, columns)[0, 1] < -0.98


def test_the_legend_has_every_curve_and_one_point_is_enough():
    names = [f"curve {i}" for i in range(9)]
    image = line_plot({name: [(1, i)] for i, name in enumerate(names)}, "x", "y", title="many")
    legend = np.s_[:, 650:]
    for colour in COLOURS:
        assert coloured(image, colour)[legend].any()


@pytest.mark.parametrize(
    ("curves", "options", "reason"),
    [
        ({}, {}, "needs points"),
        ({"a": []}, {}, "needs points"),
        ({"a": [(0, math.nan)]}, {}, "all of them finite"),
        ({"a": [(math.inf, 1)]}, {}, "all of them finite"),
        ({"a": [(0, 1)]}, {"log_x": True}, "0 has no place on a logarithmic axis"),
        ({"a": [(1, -2)]}, {"log_y": True}, "-2 has no place"),
        ({"a": [(0, 1)]}, {"size": (60, 60)}, "60x60 pixels has no room"),
        ({"a long name" * 9: [(0, 1)]}, {"size": (400, 300)}, "no room"),
    ],
)
def test_what_cannot_be_drawn(curves, options, reason):
    with pytest.raises(ValueError, match=reason):
        line_plot(curves, "x", "y", **options)
