"""Pictures are opened, painted on and computed; what is checked is the page's buffer, not screenshots."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from browsing import Sheet, digest, noise, png

SIDE = {"sd": 64, "ddpm": 32}


def test_drop_paste_and_generate_open_sessions_and_nothing_leaves_the_origin(sheet, real):
    asked: list[str] = []
    sheet.page.on("request", lambda request: asked.append(request.url))
    sheet.page.on("websocket", lambda socket: asked.append(socket.url))
    assert "token" not in sheet.page.url
    for event in ("drop", "paste"):
        sheet.page.locator(".drop").wait_for()
        sheet.bring(png(noise(64)), event)
        sheet.idle()
        assert np.array_equal(sheet.pixels(), noise(64))
        sheet.page.get_by_role("button", name="Home").click()
    sheet.page.locator(".generate textarea").fill("a b")
    sheet.page.get_by_role("button", name="Generate").click()
    sheet.idle()
    assert sheet.ask("live.picture.width") == 64
    assert asked
    assert all(url.split("://")[1].startswith(f"127.0.0.1:{real.port}/") for url in asked)


def test_a_stroke_is_computed_and_the_buffer_is_that_of_the_server(sheet, real):
    session = sheet.open(noise(64))
    before = sheet.pixels()
    sheet.set(size=8, refine=False)
    sheet.stroke((20, 20), (30, 26))
    sheet.until("live.head === 1")
    sheet.idle()
    after = sheet.pixels()
    assert np.array_equal(after, real.pixels(session, 1))
    assert np.array_equal(before, real.pixels(session, 0))
    assert (after != before).any()
    left, top, width, height = sheet.ask("live.changed")
    outside = np.ones(before.shape[:2], bool)
    outside[top : top + height, left : left + width] = False
    assert np.array_equal(after[outside], before[outside])
    assert "of the arithmetic" in sheet.page.locator(".saved").inner_text()


def test_how_long_work_takes_yet_is_told(plain, double):
    plain.open(noise(128))
    double.delay = 16
    plain.stroke((40, 40), (50, 40))
    status = plain.page.locator(".status")
    status.get_by_text("Denoising: 25 %, ").wait_for()
    first = int(status.inner_text().split(", ")[1].split()[0])
    assert 8 <= first <= 13
    plain.page.wait_for_timeout(1500)
    assert int(status.inner_text().split(", ")[1].split()[0]) < first
    plain.page.keyboard.press("Escape")
    status.get_by_text("Not run").wait_for()


def test_only_rectangles_travel(plain, double):
    plain.open(noise(512))
    whole = len(png(plain.pixels()))
    plain.set(size=50)
    sent = double.sent
    plain.stroke((100, 120), (112, 124))
    plain.until("live.head === 1")
    plain.idle()
    (upload,) = double.uploads
    left, top, width, height = upload["rect"]
    assert (left, top) >= (70, 90)
    assert (width, height) <= (70, 60)
    assert upload["overlay"] < 4 * width * height / 2
    changed = plain.ask("live.changed")
    assert changed[2] * changed[3] < 512 * 512 * 0.03
    lossless = plain.ask("live.received") - 512 * 512 * 3
    assert lossless < whole
    assert double.sent - sent < 0.25 * whole


def test_outside_is_unchanged_after_a_hundred_edits(sheet, real):
    session = open_with(sheet, "ddpm")
    start = sheet.pixels()
    sheet.set(size=3, refine=False, strength=0.5)
    rng = np.random.default_rng(3)
    touched = np.zeros(start.shape[:2], bool)
    for number in range(1, 101):
        x, y = rng.uniform(2, 10, 2)
        sheet.stroke((x, y), (x + 2, y))
        sheet.until(f"live.head === {number}")
        sheet.idle()
        left, top, width, height = sheet.ask("live.changed")
        touched[top : top + height, left : left + width] = True
    end = sheet.pixels()
    assert not touched.all()
    assert digest(end[~touched]) == digest(start[~touched])
    assert sheet.hash() == digest(real.pixels(session, 100))


def open_with(sheet, model: str) -> str:
    sheet.page.locator("select").select_option(model)
    return sheet.open(noise(SIDE[model]))


def test_a_second_stroke_joins_the_first(plain, double):
    double.hold = True
    plain.open(noise(128))
    plain.set(size=6, colour=[255, 0, 0])
    before = plain.pixels()
    plain.stroke((20, 20), (30, 20))
    plain.until("live.jobs.size === 1 && live.sent[0].state === 'running'")
    plain.stroke((90, 90), (100, 90))
    plain.until("live.sent.length === 2 && live.sent[1].state === 'running'")
    double.hold = False
    plain.until("live.head === 1")
    plain.idle()
    after = plain.pixels()
    assert (after[20, 25] != before[20, 25]).any()
    assert (after[90, 95] != before[90, 95]).any()
    assert plain.ask("live.tree.length") == 2
    assert plain.ask("live.sent.length") == 0


def test_a_second_stroke_joins_the_first_on_the_real_server(sheet, real):
    session = sheet.open(noise(64))
    before = sheet.pixels()
    sheet.set(size=5, refine=False, colour=[255, 0, 0])
    sheet.stroke((8, 8), (12, 8))
    sheet.stroke((50, 50), (54, 50))
    sheet.until("live.head >= 1 && !live.sent.length")
    sheet.idle()
    head = sheet.ask("live.head")
    after = sheet.pixels()
    assert (after[8, 10] != before[8, 10]).any()
    assert (after[50, 52] != before[50, 52]).any()
    assert np.array_equal(after, real.pixels(session, head))


def test_fast_edits_are_seen_while_the_stroke_is_drawn(plain, double):
    double.delay = 0.1
    plain.open(noise(128))
    plain.set(size=10, colour=[255, 0, 0])
    plain.stroke((20, 20), (30, 20))
    plain.until("live.head === 1")
    plain.idle()
    assert not double.drafts  # nobody knew yet how fast edits are
    before, mouse = plain.hash(), plain.page.mouse
    mouse.move(*plain.at(20, 60))
    mouse.down()
    for x in range(25, 105, 10):
        mouse.move(*plain.at(x, 60), steps=2)
        plain.page.wait_for_timeout(60)
    plain.page.locator("canvas.draft").wait_for(state="attached")
    assert len(double.drafts) > 1
    assert double.drafts[-1]["rect"][2] > double.drafts[0]["rect"][2]
    assert (plain.ask("live.head"), plain.hash(), plain.ask("live.work")) == (1, before, None)
    mouse.up()
    plain.until("live.head === 2")
    plain.idle()
    plain.page.locator("canvas.draft").wait_for(state="detached")
    assert plain.ask("live.tree.length") == 3
    assert len(double.uploads) == 2


def test_a_draft_on_the_real_server_makes_no_version(sheet, real):
    session = sheet.open(noise(64))
    sheet.set(size=6, refine=False)
    sheet.stroke((20, 20), (26, 20))
    sheet.until("live.head === 1")
    sheet.idle()
    sheet.ask("(live.tree = live.tree.map((one) => ({ ...one, seconds: 0.1 })), null)")  # on a busy machine, too
    mouse = sheet.page.mouse
    mouse.move(*sheet.at(40, 40))
    mouse.down()
    mouse.move(*sheet.at(50, 40), steps=6)
    sheet.page.locator("canvas.draft").wait_for(state="attached")
    mouse.move(*sheet.at(54, 44), steps=6)
    mouse.up()
    sheet.until("live.head === 2")
    sheet.idle()
    assert np.array_equal(sheet.pixels(), real.pixels(session, 2))


def test_cancelled_paint_stays_and_runs_again(plain, double):
    double.hold = True
    plain.open(noise(128))
    plain.stroke((20, 20), (40, 20))
    plain.until("live.jobs.size === 1")
    plain.page.keyboard.press("Escape")
    plain.until("live.held.length === 1 && !live.work")
    assert plain.ask("live.head") == 0
    assert plain.page.locator(".status").inner_text() == "Not run"
    double.hold = False
    plain.page.keyboard.press("Control+Enter")
    plain.until("live.head === 1")
    plain.idle()
    plain.stroke((20, 60), (40, 60))
    plain.until("live.head === 2")


def test_a_failed_edit_loses_no_paint(plain, double):
    plain.open(noise(128))
    double.fail = "the device is out of memory"
    plain.stroke((20, 20), (40, 20))
    plain.page.get_by_text("the device is out of memory. The paint stays: Run sends it again.").wait_for()
    plain.until("live.held.length === 1")
    plain.page.get_by_role("button", name="Run", exact=True).click()
    plain.until("live.head === 1")
    plain.idle()
    assert plain.ask("live.sent.length") == 0


def test_what_an_edit_failed_with_while_the_page_was_away_is_said_and_what_was_lost_is_sent_again(plain, double):
    double.delay = 30
    session = double.sessions[plain.open(noise(128))]
    plain.stroke((20, 20), (40, 20))
    plain.until("live.sent[0].state === 'running'")
    double.failed[session.count] = "the disk is full"
    double.lose(session)
    plain.ask("live.socket.renew()")
    plain.page.get_by_text("the disk is full").wait_for()
    plain.until("live.held.length === 1 && !live.work")
    plain.page.keyboard.press("Control+Enter")
    plain.until("live.sent[0].state === 'running'")
    double.lose(session)
    double.delay = 0.1
    plain.ask("live.socket.renew()")
    plain.until("live.head === 1")
    plain.idle()
    assert len(double.uploads) == 3
    assert len({upload["key"] for upload in double.uploads}) == 1  # on a server that knows keys it counts once
    plain.errors.clear()  # of what was asked for in vain


def test_the_page_says_that_an_edit_waits_for_its_session(plain, double):
    double.hold = True
    session = double.sessions[plain.open(noise(128))]
    opening = {"job": 90, "kind": "open", "state": "running"}
    double.tell(session, event="job", **opening)
    double.tell(session, event="progress", job=90, done=1, total=4, text="preparing the networks")
    status = plain.page.locator(".status")
    status.get_by_text("Preparing the networks: 25 %").wait_for()
    plain.stroke((20, 20), (40, 20))
    plain.until("live.jobs.size === 2")
    double.tell(session, event="progress", job=90, done=2, total=4, text="preparing the networks")
    status.get_by_text("Preparing the networks: 50 %").wait_for()
    assert "your edit waits" in status.inner_text()
    plain.page.keyboard.press("Escape")
    plain.until("live.jobs.size === 1 && live.held.length === 1")
    double.tell(session, event="job", **{**opening, "state": "done"})
    status.get_by_text("Not run").wait_for()


def test_undo_takes_unsent_paint_first_then_edits(plain):
    plain.open(noise(128))
    start = plain.hash()
    plain.stroke((20, 20), (40, 20))
    plain.until("live.head === 1")
    plain.idle()
    plain.set(live=False)
    plain.stroke((20, 60), (40, 60))
    assert plain.ask("!live.paint.isEmpty")
    plain.page.keyboard.press("Control+z")
    assert plain.ask("live.paint.isEmpty && live.head === 1")
    plain.page.keyboard.press("Control+z")
    plain.until("live.seen === 0")
    assert plain.hash() == start
    plain.page.keyboard.press("Control+Shift+z")
    plain.until("live.seen === 1")


def test_branches_survive_a_reload_and_kill_minus_nine(sheet, real):
    session = sheet.open(noise(64))
    sheet.set(size=6, refine=False)
    hashes = {0: sheet.hash()}
    for number, at in ((1, 12), (2, 30)):
        sheet.stroke((at, at), (at + 6, at))
        sheet.until(f"live.head === {number}")
        sheet.idle()
        hashes[number] = sheet.hash()
    sheet.page.keyboard.press("Control+z")
    sheet.until("live.seen === 1")
    assert sheet.hash() == hashes[1]
    sheet.stroke((50, 12), (56, 12))
    sheet.until("live.head === 3")
    sheet.idle()
    hashes[3] = sheet.hash()
    assert [v["parent"] for v in sheet.ask("live.tree")] == [None, 0, 1, 1]
    sheet.page.locator("#history").get_by_role("button", name="Version 2").click()
    sheet.until("live.seen === 2")
    assert sheet.hash() == hashes[2]
    sheet.page.reload()
    sheet.idle()
    assert (sheet.ask("live.head"), sheet.hash()) == (2, hashes[2])
    real.kill()
    sheet.until("live.connection === 'lost'")
    real.start()
    sheet.until("live.connection === 'open'")
    for number, expected in hashes.items():
        sheet.ask("live.goto(given)", number)
        sheet.until(f"live.seen === {number}")
        assert sheet.hash() == expected == digest(real.pixels(session, number))
    sheet.errors.clear()  # of connections that failed meanwhile


def exported(sheet, kind="PNG"):
    """The bytes of a file."""
    with sheet.page.expect_download() as waiting:
        sheet.page.keyboard.press("Control+s")
        sheet.page.get_by_label("Format").select_option(kind)
        sheet.page.get_by_role("button", name="Export").last.click()
    with open(waiting.value.path(), "rb") as file:
        return file.read()


@pytest.mark.parametrize("kind", ["JPEG", "WebP"])
def test_smaller_files_reopen_their_settings_too(sheet, kind):
    sheet.open(noise(64))
    sheet.set(prompt='"b" & \u00fc', negative="c", strength=0.5, refine=False)
    sheet.stroke((20, 20), (30, 26))
    sheet.until("live.head === 1")
    sheet.idle()
    data = exported(sheet, kind)
    image = Image.open(io.BytesIO(data))
    assert image.format == kind.upper()
    assert np.abs(np.asarray(image).astype(int) - sheet.pixels()).mean() < 20
    sheet.page.get_by_role("button", name="Home").click()
    sheet.set(prompt="", negative="")
    sheet.page.locator(".drop").wait_for()
    sheet.bring(data, kind=f"image/{kind.lower()}")
    sheet.idle()
    assert [sheet.ask(f"studio.options.values.{name}") for name in ("prompt", "negative")] == ['"b" & \u00fc', "c"]


def test_the_exported_png_is_the_buffer_and_reopens_its_settings(sheet):
    sheet.open(noise(64))
    sheet.set(prompt="a b", negative="c", strength=0.5, seed=11, refine=False)
    sheet.stroke((20, 20), (30, 26))
    sheet.until("live.head === 1")
    sheet.idle()
    data = exported(sheet)
    image = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(image), sheet.pixels())
    kept = json.loads(image.text["retouch"])
    assert {name: kept[name] for name in ("model", "prompt", "seed")} == {"model": "sd", "prompt": "a b", "seed": 11}
    sheet.page.get_by_role("button", name="Home").click()
    sheet.set(prompt="", negative="", strength=0.3, seed=0)
    sheet.page.locator(".drop").wait_for()
    sheet.bring(data)
    sheet.idle()
    assert np.array_equal(sheet.pixels(), np.asarray(image))
    assert [sheet.ask(f"studio.options.values.{name}") for name in ("prompt", "negative", "seed")] == ["a b", "c", 11]


def test_a_saved_session_is_dropped_and_goes_on(sheet, real):
    session = sheet.open(noise(64))
    sheet.set(size=6, refine=False)
    sheet.stroke((20, 20), (30, 26))
    sheet.until("live.head === 1")
    sheet.idle()
    sheet.page.get_by_text("Session", exact=True).click()
    with sheet.page.expect_download() as waiting:
        sheet.page.get_by_role("link", name="Save the whole session").click()
    with open(waiting.value.path(), "rb") as file:
        data = file.read()
    before = sheet.pixels()
    sheet.page.get_by_role("button", name="Home").click()
    sheet.page.locator(".drop").wait_for()
    sheet.bring(data[: len(data) // 2], name="half.zip", kind="application/zip")
    sheet.page.get_by_text("no archive of a session, or it is damaged").wait_for()
    sheet.bring(data, name="whole.zip", kind="application/zip")
    sheet.idle()
    other = sheet.ask("live.id")
    assert other != session
    assert np.array_equal(sheet.pixels(), before)
    sheet.ask("live.goto(0)")
    sheet.until("live.seen === 0")
    assert np.array_equal(sheet.pixels(), real.pixels(session, 0))
    sheet.stroke((50, 50), (56, 50))
    sheet.until("live.head === 2")
    sheet.idle()
    assert [version["parent"] for version in sheet.ask("live.tree")] == [None, 0, 0]
    assert len(json.loads(real.get(f"api/sessions/{session}"))["tree"]) == 2
    sheet.errors = [error for error in sheet.errors if "415" not in error]


def test_more_strength_than_was_recorded_is_one_click_away(sheet, real):
    session = sheet.open(noise(64))
    most = sheet.ask("studio.recorded()")
    assert most < 0.9
    sheet.set(size=6, refine=False, strength=0.9)
    sheet.stroke((20, 20), (30, 26))  # with as much as was recorded
    sheet.until("live.head === 1")
    sheet.idle()
    sheet.page.get_by_role("button", name="Record the picture again").click()
    sheet.until(f"live.id !== '{session}'")
    sheet.idle()
    assert sheet.ask("studio.recorded()") == 0.9
    assert np.array_equal(sheet.pixels(), real.pixels(session, 1))
    sheet.stroke((40, 40), (46, 40))
    sheet.until("live.head === 1")


def test_two_pages_see_the_same_and_a_stale_one_rebases(plain, double, context):
    plain.open(noise(128))
    other = Sheet(context.new_page())
    other.page.goto(plain.page.url)
    other.idle()
    plain.stroke((20, 20), (40, 20))
    plain.until("live.head === 1")
    other.until("live.seen === 1")
    assert plain.hash() == other.hash()
    other.ask("(live.head = 0, live.tree = live.tree.slice(0, 1), null)")
    other.stroke((80, 80), (90, 80))
    plain.until("live.seen === 2")
    other.until("live.seen === 2")
    assert [upload["base"] for upload in double.uploads][-2:] == [0, 1]
    assert other.hash() == plain.hash()
    assert not other.errors


def test_before_there_is_a_picture_the_page_says_so_and_takes_no_paint(plain, double):
    session = double.sessions[plain.open(noise(128))]
    plain.ask("(live.seen = null)")
    double.tell(session, event="job", job=90, kind="generate", state="running")
    double.tell(session, event="progress", job=90, done=1, total=4, text="step 2 of 4")
    plain.page.locator("#coming").get_by_text("The picture comes here. Step 2 of 4: 25 %").wait_for()
    plain.stroke((20, 20), (40, 20))
    assert plain.ask("live.paint.isEmpty && !live.sent.length")
    double.tell(session, event="job", job=90, kind="generate", state="done")
    plain.ask("live.socket.renew()")
    plain.idle()
    assert plain.page.locator("#coming").inner_text() == ""


def test_a_section_that_is_opened_is_in_sight(plain):
    plain.page.set_viewport_size({"width": 1280, "height": 600})
    plain.open(noise(128))
    plain.page.locator(".sections").evaluate("(all) => all.scrollTo(0, 0)")
    plain.page.locator("summary").get_by_text("Session").evaluate("(title) => title.click()")
    plain.page.wait_for_timeout(300)
    bottom = "(one) => one.getBoundingClientRect().bottom"
    body = plain.page.locator("details", has_text="Session").locator(".body")
    assert body.evaluate(bottom) <= plain.page.locator(".sections").evaluate(bottom) + 1
