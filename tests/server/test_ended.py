"""A server that ends at any point of an edit: another one goes on from what is in the folder, and counts it once."""

import shutil
from pathlib import Path

import pytest

from retouch.editing.archive import Archive
from studios import asking, created, idle, keyed, page, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
POINTS = [(Archive, name) for name in ("staging", "write", "seal", "commit", "clean")] + [(Path, "replace")]


@pytest.fixture
def ends(tmp_path, monkeypatch):
    """Copies of a folder, once it is watched, as it is left by a process that ends before each thing of `POINTS`."""
    found = []

    def watch(home):
        def watched(what):
            def call(*args, **kwargs):
                found.append(tmp_path / f"end-{len(found)}")
                shutil.copytree(home, found[-1])
                return what(*args, **kwargs)

            return call

        for owner, name in POINTS:
            monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
        return found

    return watch


def left_behind(home, ends, monkeypatch, **what):
    """A session, and folders of servers that ended while they made an edit of it."""
    with asking(studio(home)) as client:
        id_ = created(client)
        found = ends(home)
        assert keyed(client, id_, "k", **what).status_code == 202
        idle(client, id_)
        monkeypatch.undo()
    return id_, found


@pytest.mark.parametrize(
    ("what", "count"), [({"what": "edits"}, 2), ({"what": "variants", "n": 3}, 4)], ids=["edit", "variants"]
)
def test_an_edit_counts_once_wherever_its_server_ended(tmp_path, ends, monkeypatch, what, count):
    id_, left = left_behind(tmp_path / "home", ends, monkeypatch, **what)
    before = set()
    for folder in left:
        with asking(studio(folder)) as client:
            before.add(len(client.get(f"/api/sessions/{id_}").json()["tree"]))
            reply = keyed(client, id_, "k", **what)
            assert reply.status_code == 202, reply.text
            assert len(idle(client, id_)["tree"]) == count
            with page(client, id_) as watching:  # it has missed what became of the job, and asks once more
                again = keyed(client, id_, "k", **what).json()["job"]
                assert again > reply.json()["job"]
                assert watching.done(again)["state"] == "done"
            assert len(idle(client, id_)["tree"]) == count
    assert before == {1, count}  # none of it, or all
