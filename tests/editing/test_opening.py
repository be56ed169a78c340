"""Sessions that are there before they are recorded."""

from concurrent.futures import CancelledError
from threading import Thread

import numpy as np
import pytest

import retouch
from editing.diffusion.test_session import editor
from editing.gan.test_upscaler import upscaler
from editing.live import SPARSE, WAIT, Gate, session
from pipelines import painted, picture
from retouch import PipelineError, SessionError
from retouch.editing.calls import Calls

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

STEPS = {"steps": 3, "strength": 1.0}


def test_a_photograph_is_drawn_on_while_it_is_recorded(tmp_path):
    gate = Gate("recording step 2")
    live, plain = session(wait=False, folder=tmp_path / "s", progress=gate), session()
    gate.wait()
    assert np.array_equal(live.pixels, plain.pixels)
    assert live.size == plain.size
    assert not live.opening.done()
    with pytest.raises(SessionError, match=r"wait for session.opening.result\(\)"):
        _ = live.version
    drawn = painted(live.pixels)
    job = live.submit(drawn, refine="off", base=0)
    gate.go.set()
    (frame,) = live.opening
    assert (frame.kind, frame.version, frame.rectangle) == ("result", 0, (0, 0, 32, 32))
    assert live.opening.result(WAIT) is live
    job.result(WAIT)
    assert np.array_equal(live.pixels, np.asarray(plain.edit(drawn).image))
    assert np.array_equal(np.asarray(live.undo()), picture("ddpm"))
    live.close()
    with retouch.open(tmp_path / "s", editor=editor("ddpm", SPARSE)) as again:
        assert [version.number for version in again.versions] == [0, 1]


def test_what_is_called_waits_for_the_recording():
    gate = Gate("recording step 2")
    live = session(wait=False, progress=gate)
    gate.wait()
    found = []
    threads = [
        Thread(target=lambda: found.append(live.edit(painted(picture("ddpm"))))),
        Thread(target=lambda: found.append(live.branch())),
    ]
    for thread in threads:
        thread.start()
    threads[0].join(0.1)
    assert not found
    gate.go.set()
    for thread in threads:
        thread.join(WAIT)
    assert len(found) == len(live.versions) == 2


def test_a_recording_that_is_cancelled_leaves_nothing(tmp_path, monkeypatch):
    count, record = [], Calls.record
    monkeypatch.setattr(Calls, "record", lambda *args, **kwargs: record(*args, **kwargs) if not count.append(1) else 0)
    gate = Gate("recording step 2")
    live = session(wait=False, folder=tmp_path / "s", progress=gate)
    gate.wait()
    job = live.submit(painted(live.pixels))
    assert live.opening.cancel()
    gate.go.set()
    with pytest.raises(CancelledError):
        live.opening.result(WAIT)
    with pytest.raises(CancelledError):
        job.result(WAIT)
    assert list(live.opening) == []
    with pytest.raises(SessionError, match="closed"):
        live.submit(painted(picture("ddpm")))
    with pytest.raises(SessionError, match="was not recorded"):
        live.edit(painted(picture("ddpm")))
    assert not (tmp_path / "s").exists()
    session(folder=tmp_path / "s").close()


def test_a_recording_that_waits_is_cancelled_at_once(tmp_path):
    gate = Gate("recording step 1")
    first = session(wait=False, progress=gate)
    gate.wait()
    second = session(wait=False, folder=tmp_path / "s")
    second.close()
    assert second.opening.cancelled()
    assert not (tmp_path / "s").exists()
    gate.go.set()
    assert first.opening.result(WAIT) is first


def test_a_recording_that_fails_closes_the_session(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Calls, "record", lambda *_, **__: 1 / 0)
        live = session(wait=False, folder=tmp_path / "s")
        assert isinstance(live.opening.exception(WAIT), ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        list(live.opening)
    with pytest.raises(SessionError, match="was not recorded"):
        _ = live.version
    assert not (tmp_path / "s").exists()


def test_a_generated_picture_is_there_when_it_is_made():
    gate, made = Gate("step 2"), editor("ddpm", SPARSE)
    with pytest.raises(PipelineError):
        made.generate(size=(33, 33), wait=False)
    live = made.generate(size=(32, 32), steps=3, seed=3, wait=False, progress=gate)
    gate.wait()
    for look in (lambda: live.pixels, lambda: live.submit(prompt=None)):
        with pytest.raises(SessionError, match="wait for"):
            look()
    gate.go.set()
    live.opening.result(WAIT)
    assert np.array_equal(live.pixels, made.generate(size=(32, 32), steps=3, seed=3).pixels)


def test_generators_open_without_waiting_too():
    gate = Gate("recording")
    live = upscaler().open(picture("ddpm"), wait=False, progress=gate)
    gate.wait()
    assert np.array_equal(live.source, picture("ddpm"))
    with pytest.raises(SessionError):
        _ = live.pixels
    job = live.submit(painted(live.source))
    gate.go.set()
    assert job.result(WAIT).changed
    assert len(live.versions) == 2
