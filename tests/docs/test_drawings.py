"""The drawings are those that their script makes."""

import runpy

import pytest

from docs.pages import ROOT

SCRIPT = runpy.run_path(str(ROOT / "docs" / "drawings.py"))


@pytest.mark.parametrize("draw", SCRIPT["SIZES"], ids=lambda draw: draw.__name__)
@pytest.mark.parametrize("name", ["light", "dark"])
def test_a_drawing_is_up_to_date(draw, name):
    drawing = SCRIPT["Drawing"](*SCRIPT["SIZES"][draw], SCRIPT[name.upper()])
    draw(drawing)
    assert (ROOT / "docs" / "drawings" / f"{draw.__name__}-{name}.svg").read_text() == drawing.svg()
