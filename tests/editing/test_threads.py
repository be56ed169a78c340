"""One session in several threads, and several sessions on one network."""

from threading import Event, Thread

import numpy as np
import pytest

from editing.diffusion.test_session import opened
from editing.gan.test_upscaler import upscaler
from pipelines import painted, picture

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.mark.parametrize("method", ["undo", "branch", "close"])
def test_moves_wait_for_an_edit_and_readers_do_not(method):
    session = upscaler().open(picture("ddpm"))
    session.edit(painted(session.source))
    inside, go = Event(), Event()

    def progress(done, total, what):
        inside.set()
        assert go.wait(60)

    edit = Thread(target=session.edit, args=(painted(session.source, 20, 3),), kwargs={"progress": progress})
    other = Thread(target=getattr(session, method))
    edit.start()
    assert inside.wait(60)
    other.start()
    other.join(0.2)
    assert other.is_alive()
    assert (session.position, len(session.versions)) == (1, 2)
    assert session.pixels.shape == (128, 128, 3)
    go.set()
    edit.join()
    other.join()
    assert len(session.versions) == 3
    assert session.position == (1 if method == "undo" else 2)


def test_edits_of_one_session_come_one_after_the_other():
    session = upscaler().open(picture("ddpm"))
    # Places where no value is on the edge between two levels, whichever edit comes last.
    threads = [Thread(target=session.edit, args=(painted(session.source, top),)) for top in range(19, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [version.number for version in session.versions] == list(range(7))
    assert np.array_equal(session.pixels, np.asarray(session.reference(session.source).image))


def test_branches_on_one_network_do_not_disturb_each_other():
    session = opened("ddpm", "fast", steps=2, strength=1.0)
    expected = []
    for top in (2, 12, 22):
        expected.append(np.asarray(session.edit(painted(session.pixels, top)).image))
        session.undo()
    found = {}

    def run(number, branch):
        for _ in range(3):
            found[number] = np.asarray(branch.edit(painted(branch.pixels, 2 + 10 * number)).image)
            branch.undo()

    threads = [Thread(target=run, args=(number, session.branch())) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[number], expected[number]) for number in range(3))
