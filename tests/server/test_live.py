"""WebSockets of sessions: what pages are told brings them to the exact picture of the head, whatever happens."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from starlette.websockets import WebSocketDisconnect

from retouch.editing.jobs import Frame
from retouch.server.frames import Difference, messages
from retouch.server.hub import LONGEST, Hub, Message, Watcher
from retouch.server.limits import Limits
from retouch.server.work import PACE, Work
from studios import BEARER, OTHER, asking, created, edited, idle, lay, page, parsed, pixels, studio, until

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def test_a_page_sees_an_edit_as_it_comes(client):
    id_ = created(client)
    with page(client, id_) as here, page(client, id_) as there:
        for each in (here, there):
            each.hear(lambda m: m.get("kind") == "picture")
            assert np.array_equal(each.picture, pixels(client, id_, 0))
            assert each.events[0]["session"]["head"] == 0
        job = edited(client, id_, 0).json()["job"]
        for each in (here, there):
            assert each.done(job)["state"] == "done"
            assert each.version == 1
            assert np.array_equal(each.picture, pixels(client, id_, 1))
            states = [e["state"] for e in each.events if e["event"] == "job"]
            assert states == ["queued", "running", "done"]
            assert [e["head"] for e in each.events if e["event"] == "tree"][-1] == 1
        client.post(f"/api/sessions/{id_}/head", json={"version": 0})
        for each in (here, there):
            each.hear(lambda m: m.get("event") == "tree")
            assert (each.version, each.kinds[-1]) == (0, "head")
            assert np.array_equal(each.picture, pixels(client, id_, 0))


def test_a_page_that_was_away_gets_what_it_missed(client):
    id_ = created(client)
    edited(client, id_, 0)
    idle(client, id_)
    with page(client, id_, seen=1) as current:
        current.hear(lambda m: m.get("event") == "hello")
        edited(client, id_, 1, left=2, top=20)
        current.hear(lambda m: m.get("kind") == "result")
        assert "picture" not in current.kinds
    idle(client, id_)
    for seen in (0, 1, None, 99, "x", -1):
        with page(client, id_, seen=seen) as back:
            if seen in (0, 1):
                back.picture = pixels(client, id_, seen).copy()
            back.hear(lambda m: m.get("kind") == "picture" and m["version"] == 2)
            assert np.array_equal(back.picture, pixels(client, id_, 2))


def test_while_a_session_is_opened_its_picture_is_there_and_takes_strokes(client):
    id_ = created(client, wait=False)
    reply = edited(client, id_, 0)
    assert reply.status_code == 202, reply.text
    found = idle(client, id_)
    assert (found["head"], len(found["tree"])) == (1, 2)


def test_of_two_strokes_at_once_one_version_holds_both(client):
    id_ = created(client)
    jobs = [edited(client, id_, 0, left=left).json()["job"] for left in (2, 12, 22)]
    found = idle(client, id_)
    assert jobs == [jobs[0], jobs[0] + 1, jobs[0] + 2]
    changed = (pixels(client, id_, found["head"]) != pixels(client, id_, 0)).any(2)
    for left in (2, 12, 22):
        assert changed[9:14, left : left + 5].any()


def test_refinements_reach_the_page(client):
    id_ = created(client)
    with page(client, id_) as here:
        edited(client, id_, 0, refine="dense")
        here.hear(lambda m: m.get("kind") == "refined")
        here.hear(lambda m: m.get("event") == "tree" and m["tree"][-1]["refined"] == "dense")
        assert here.version == 1
        assert np.array_equal(here.picture, pixels(client, id_, 1))


def test_a_page_that_was_away_while_its_version_was_refined_gets_it(client):
    id_ = created(client)
    edited(client, id_, 0, refine="dense")
    until(lambda: idle(client, id_)["tree"][1]["refined"] == "dense")
    for seen, kinds in (("1&refined=dense", []), ("1", ["picture"]), ("1&refined=step", ["picture"])):
        with page(client, id_, seen=seen) as here:
            here.hear(lambda m: m.get("event") == "hello")
            client.post(f"/api/sessions/{id_}/versions/1/name", json={"name": "x"})
            here.hear(lambda m: m.get("event") == "tree")
            assert here.kinds == kinds
            if kinds:
                assert np.array_equal(here.picture, pixels(client, id_, 1))


def test_a_deleted_session_closes_its_pages(client):
    id_ = created(client)
    with page(client, id_) as here:
        here.hear(lambda m: m.get("kind") == "picture")
        client.delete(f"/api/sessions/{id_}")
        with pytest.raises(WebSocketDisconnect) as closed:
            here.hear(lambda m: False)
    assert closed.value.code == 4404


def test_of_a_session_of_somebody_else_nothing_is_told(client):
    id_ = created(client)
    for wanted, headers in ((id_, OTHER), ("0" * 32, BEARER), ("x", BEARER)):
        with page(client, wanted, headers=headers) as here, pytest.raises(WebSocketDisconnect) as closed:
            here.hear(lambda m: False)
        assert closed.value.code == 4404


def test_the_number_of_pages_is_limited(tmp_path):
    with asking(studio(tmp_path, Limits(watchers=1))) as client:
        id_ = created(client)
        with page(client, id_) as first:
            first.hear(lambda m: m.get("event") == "hello")
            with page(client, id_) as second, pytest.raises(WebSocketDisconnect) as closed:
                second.hear(lambda m: False)
            assert closed.value.code == 4429


def test_a_failed_edit_is_told_and_changes_nothing(client, monkeypatch):
    id_ = created(client)
    with page(client, id_) as here:
        here.hear(lambda m: m.get("kind") == "picture")
        monkeypatch.setattr("retouch.runtime.blocks.os.posix_fallocate", full)
        job = edited(client, id_, 0).json()["job"]
        told = here.done(job)
        assert (told["state"], told["error"]["status"]) == ("failed", 507)
        assert "/" not in told["error"]["detail"]
        monkeypatch.undo()
        assert idle(client, id_)["head"] == 0
        assert here.done(edited(client, id_, 0).json()["job"])["state"] == "done"


def full(*_):
    import errno

    raise OSError(errno.ENOSPC, "No space left on device")


def test_few_bytes_travel_for_a_small_edit():
    rng = np.random.default_rng(0)
    old = np.asarray(Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).resize((512, 512), Image.BICUBIC))
    new = old.copy()
    new[100:151, 200:251] += rng.integers(1, 9, (51, 51, 3)).astype(np.uint8)  # 1 % of it
    new[400, 60:160] ^= 3
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (512, 512, 3), np.uint8)).save(file, "PNG")
    sent = list(messages("result", Difference.between((0, old), new), 1, 5))
    assert sum(map(len, sent)) <= 0.03 * len(file.getvalue())
    assert np.array_equal(rebuilt(old, sent), new)
    assert [parsed(each)[0]["version"] for each in sent] == [*[0] * (len(sent) - 1), 1]
    assert [parsed(each)[0]["job"] for each in sent][-1] == 5


def test_of_a_thin_stroke_on_a_photograph_the_stroke_travels():
    """Of a curve that takes 1 %, boxes around its tiles hold five times as much."""
    rng = np.random.default_rng(0)
    old = noisy(rng)
    new, other = old.copy(), noisy(rng)
    x = np.arange(60, 450)
    y = (250 + 90 * np.sin(x / 45)).astype(int)
    for k in range(-3, 4):
        new[y + k, x] = other[y + k, x]
    file = io.BytesIO()
    Image.fromarray(old).save(file, "PNG")
    sent = list(messages("result", Difference.between((0, old), new), 1, 5))
    assert 0.009 < (new != old).any(-1).mean() < 0.011
    assert sum(map(len, sent)) <= 0.03 * len(file.getvalue())
    assert np.array_equal(rebuilt(old, sent), new)


def rebuilt(old, sent):
    """A picture with the rectangles of messages laid on it."""
    picture = old.copy()
    for each in sent:
        header, body = parsed(each)
        assert header["bytes"] == len(body)
        if body:
            lay(picture, header["rect"], body)
    return picture


def noisy(rng):
    """A picture as smooth, and as grainy, as photographs are."""
    small = Image.fromarray(rng.integers(40, 216, (24, 24, 3), np.uint8)).resize((512, 512), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(small) + rng.integers(-6, 7, (512, 512, 3)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", range(20))
def test_rectangles_cover_all_that_differs(seed):
    rng = np.random.default_rng(seed)
    old = np.zeros((int(rng.integers(1, 150)), int(rng.integers(1, 150)), 3), np.uint8)
    new = old.copy()
    for _ in range(int(rng.integers(0, 6))):
        y, x = rng.integers(0, old.shape[0]), rng.integers(0, old.shape[1])
        new[y : y + rng.integers(1, 40), x : x + rng.integers(1, 40)] = rng.integers(0, 2)
    count, sent = np.zeros(old.shape[:2], int), list(messages("result", Difference.between((0, old), new), 1))
    for left, top, width, height in (parsed(each)[0]["rect"] for each in sent):
        count[top : top + height, left : left + width] += 1
    assert np.array_equal(rebuilt(old, sent), new)
    assert count.max(initial=0) <= 1


class Loop:
    def call_soon_threadsafe(self, function, *args):
        function(*args)


def test_a_slow_page_keeps_one_preview_and_is_sent_away_in_the_end():
    hub, watcher = Hub(), Watcher(Loop())
    hub.join(watcher)
    for number in range(5):
        hub.send(Message(f"preview {number}", preview=True))
    assert [m.content for m in watcher._waiting] == ["preview 4"]
    for _ in range(LONGEST):
        hub.send(Message("x"))
    assert watcher.overrun
    assert not watcher._waiting
    hub.leave(watcher)
    assert len(hub) == 0


@pytest.fixture
def told():
    """A job of its own, and what pages are told of it."""
    sent = []
    work = object.__new__(Work)
    work.number, work.kind, work._running, work._told_at = 1, "edit", True, {}
    work.entry = SimpleNamespace(hub=SimpleNamespace(send=lambda message: sent.append(message.content)), jobs={})
    work._count = lambda *_: None
    return work, sent


def test_steps_that_follow_each_other_are_told_once(told):
    work, sent = told
    for step in range(4):
        work._progress(step, 5, f"step {step + 1} of 4")
    work._progress(4, 5, "decoding")
    work._progress(5, 5, "decoding")
    assert [json.loads(event)["done"] for event in sent] == [0, 4, 5]


def test_a_preview_is_made_and_sent_unless_another_or_the_result_is_near(told):
    work, sent = told
    looked = []

    def preview(step, seconds):
        def content():
            looked.append(step)
            return np.zeros((4, 4, 3), np.uint8)

        return Frame("preview", 1, (0, 0, 4, 4), content, step, 10, seconds, 0, 0)

    work._frame(preview(9, 9 * PACE * 0.9))
    assert not sent
    for step in (1, 2):
        work._frame(preview(step, step * PACE))
    assert (len(sent), looked) == (1, [1])
    work.kind, work._told_at = "draft", {}
    work._frame(preview(10, 10 * PACE))
    assert (len(sent), looked) == (2, [1, 10])
