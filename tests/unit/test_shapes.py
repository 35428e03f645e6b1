"""difs.actors.shapes: what a device has computed."""

import pytest

from difs.actors import shapes
from difs.actors.shapes import Shape, Shapes

ONE = Shape("a", 64, 64, 2)


@pytest.mark.parametrize(
    "other", [("b", 64, 64, 2), ("a", 64, 128, 2), ("a", 128, 64, 2), ("a", 64, 64, 0)]
)
def test_the_first_call_of_each_shape_is_the_first(other: tuple[str, int, int, int]) -> None:
    known = Shapes()
    assert [known.is_first(shape) for shape in (ONE, ONE, Shape(*other), ONE)] == [
        True,
        False,
        True,
        False,
    ]


def test_what_was_not_computed_for_long_is_forgotten() -> None:
    known = Shapes()
    for rows in range(shapes.MOST):
        known.is_first(ONE._replace(rows=rows))
    assert not known.is_first(ONE._replace(rows=0)), "used lately"
    known.is_first(ONE._replace(rows=shapes.MOST))
    assert known.is_first(ONE._replace(rows=1)), "the longest ago"
