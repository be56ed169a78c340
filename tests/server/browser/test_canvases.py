"""Pictures of any size on the page: viewports follow what is in sight, only what changed travels, sides are added."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from browsing import Sheet, noise, png

MODEL = "ddpm"  # sees 32x32 pixels


def opened(sheet, width=150, height=100) -> str:
    sheet.page.locator("select").select_option(MODEL)
    sheet.set(size=5, refine=False, strength=0.6, colour=[255, 0, 0])
    return sheet.open(noise(150)[:height, :width])


def zoom(sheet, left, top, width) -> None:
    """Shows the picture from a place on, so many pixels across."""
    scale = sheet.ask("studio.stage.size.width") / width
    sheet.ask("(studio.stage.show(given), null)", {"scale": scale, "angle": 0, "x": -left * scale, "y": -top * scale})


def test_an_edit_of_a_large_picture_changes_its_viewport_alone(sheet, real):
    session = opened(sheet)
    assert sheet.ask("live.isCanvas")
    before, received = sheet.pixels(), sheet.ask("live.received")
    sheet.stroke((60, 50), (68, 54))
    sheet.until("live.head === 1")
    sheet.idle()
    after = sheet.pixels()
    assert np.array_equal(after, real.pixels(session, 1))
    left, top, width, height = sheet.ask("live.tree[1].viewport.rect")
    outside = np.ones(before.shape[:2], bool)
    outside[top : top + height, left : left + width] = False
    assert (after != before).any()
    assert np.array_equal(after[outside], before[outside])
    assert sheet.ask("live.received") - received < len(png(before))
    assert "Last edit: viewport" in sheet.page.locator(".planned").inner_text()
    for look, shown in (("c", "before"), ("d", "difference")):
        sheet.page.keyboard.press(look)
        sheet.page.locator(f"canvas.{shown}").wait_for(state="attached")
        sheet.page.keyboard.press(look)
    data = sheet.ask("live.version(0).then(({ data }) => [...data])")
    assert np.array_equal(np.array(data, np.uint8).reshape(before.shape), before)
    sheet.page.keyboard.press("Control+z")
    sheet.until("live.seen === 0")
    assert np.array_equal(sheet.pixels(), before)
    sheet.page.reload()
    sheet.idle()
    assert np.array_equal(sheet.pixels(), before)


def test_what_is_in_sight_is_recorded_ahead_and_framed(sheet):
    opened(sheet)
    sheet.page.get_by_text("Zoom in where you want to edit").wait_for()
    zoom(sheet, 60, 40, 30)
    sheet.page.get_by_text(", recorded", exact=False).wait_for()
    left, top, *_ = sheet.ask("live.looking.viewport.rect")
    assert left <= 60
    assert top <= 40
    path = sheet.page.locator(".outlines path").first
    assert path.get_attribute("d").startswith(f"M{left} {top}h")
    sheet.page.keyboard.press("f")
    sheet.page.locator(".outlines path").first.wait_for(state="detached")
    sheet.page.keyboard.press("f")
    sheet.stroke((70, 48), (76, 50))
    sheet.until("live.head === 1")
    sheet.idle()
    assert sheet.ask("live.tree[1].viewport.way") == "sparse"
    sheet.page.get_by_text("recorded before").wait_for()
    sheet.page.keyboard.press("v")
    sheet.page.locator("canvas.region").wait_for(state="attached")


@pytest.mark.parametrize("size", [(150, 100), (32, 32)], ids=["canvas", "session"])
def test_a_picture_is_expanded_from_the_page(sheet, real, size):
    before = opened(sheet, *size)
    source = sheet.pixels()
    sheet.set(live=False)
    sheet.stroke((20, 20), (24, 20))
    painted = sheet.ask("live.paint.bounds()")
    sheet.page.keyboard.press("Shift+E")
    sheet.page.get_by_label("Pixels on the right").fill("0")
    sheet.page.get_by_label("Pixels on the left").fill("24")
    sheet.page.get_by_role("button", name="Expand", exact=True).click()
    sheet.until(f"live.picture.width === {size[0] + 24}")
    sheet.until("live.tree.length === 3")
    sheet.idle()
    session = sheet.ask("live.id")
    assert (session == before) == (size != (32, 32))
    assert np.array_equal(sheet.pixels(), real.pixels(session, 2))
    assert np.array_equal(sheet.pixels()[:, 24 + 12 :], source[:, 12:])
    if session == before:
        assert sheet.ask("live.paint.bounds()") == [painted[0] + 24, *painted[1:]]
    for version in (0, 2):
        sheet.ask("(live.goto(given), null)", version)
        sheet.until(f"live.seen === {version}")
        assert np.array_equal(sheet.pixels(), real.pixels(session, version))


def test_variants_of_a_canvas_are_chosen_from_the_strip(sheet, real):
    session = opened(sheet)
    before = sheet.pixels()
    sheet.set(live=False, variants=3, seed=5)
    sheet.stroke((60, 50), (68, 54))
    sheet.page.get_by_role("button", name="Make variants").click()
    sheet.until("live.tree.length === 4")
    sheet.idle()
    assert sheet.ask("live.tree.map(({ parent }) => parent)") == [None, 0, 0, 0]
    strip = sheet.page.get_by_role("group", name="Variants to choose from").get_by_role("button")
    assert strip.count() == 3
    seen = set()
    for number in (1, 2, 3):
        sheet.page.get_by_role("button", name=f"Variant, version {number}").click()
        sheet.until(f"live.seen === {number}")
        assert np.array_equal(sheet.pixels(), real.pixels(session, number))
        assert (sheet.pixels() != before).any()
        seen.add(sheet.hash())
    assert len(seen) == 3


def test_areas_of_a_canvas_have_words_of_their_own(sheet, real):
    sheet.page.locator("select").select_option("sd")
    sheet.set(size=12, refine=False, strength=0.6, prompt="a")
    session = sheet.open(noise(150)[:100])
    sheet.page.get_by_text("Words for areas").click()
    sheet.page.get_by_role("button", name="Add an area").click()
    sheet.stroke((60, 50), (70, 54))
    sheet.page.get_by_label("Words for area 1").fill("b")
    sheet.page.keyboard.press("Control+Enter")
    sheet.until("live.head === 1")
    sheet.idle()
    assert np.array_equal(sheet.pixels(), real.pixels(session, 1))
    assert sheet.ask("live.tree[1].prompt") == "a"
    bounds = sheet.ask("live.areas.list[0].mask.bounds()")
    sheet.ask("live.expand({ left: 8, top: 0, right: 0, bottom: 0 }, {}).then(() => null)")
    sheet.until("live.picture.width === 158")
    sheet.until(f"live.areas.list[0].mask.bounds().join() === '{bounds[0] + 8},{bounds[1]},{bounds[2]},{bounds[3]}'")
    sheet.until("live.tree.length === 4")
    sheet.idle()


def test_an_edit_of_a_canvas_is_refined_when_idle(sheet, real):
    session = opened(sheet)
    zoom(sheet, 60, 40, 30)
    sheet.page.get_by_text(", recorded", exact=False).wait_for()
    sheet.page.get_by_label("Refine when idle").check()
    assert sheet.ask("studio.options.values.refine") is True
    sheet.set(refine="dense")  # whatever the estimate of its error
    sheet.ask("(studio.refined = [], live.on('refined', (version) => studio.refined.push(version)), null)")
    sheet.stroke((66, 46), (72, 48))
    sheet.until("live.tree[1]?.refined === 'dense'")
    sheet.idle()
    assert 1 in sheet.ask("studio.refined")
    assert np.array_equal(sheet.pixels(), real.pixels(session, 1))


def test_what_is_exported_is_the_picture_as_its_file_was(sheet):
    sheet.page.locator("select").select_option(MODEL)
    sheet.page.locator(".drop").wait_for()
    rgba = np.dstack([noise(90), np.full((90, 90), 255, np.uint8)])
    rgba[:9, :9, 3] = 80
    sheet.bring(png(rgba))
    sheet.idle()
    with sheet.page.expect_download() as waiting:
        sheet.page.keyboard.press("Control+s")
        sheet.page.get_by_role("button", name="Export").last.click()
    with open(waiting.value.path(), "rb") as file:
        found = np.asarray(Image.open(io.BytesIO(file.read())))
    assert np.array_equal(found, rgba)


def test_a_second_page_sees_the_picture_grow(sheet, context):
    opened(sheet)
    other = Sheet(context.new_page())
    other.page.goto(sheet.page.url)
    other.idle()
    sheet.ask("live.expand({ left: 0, top: 16, right: 0, bottom: 0 }, {}).then(() => null)")
    sheet.until("live.tree.length === 3")
    sheet.idle()
    other.until("live.seen === 2")
    assert other.hash() == sheet.hash()
    assert not other.errors
