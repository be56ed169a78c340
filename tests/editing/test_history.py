"""The tree of versions: where undo, redo and a jump lead, in memory and in folders."""

import json
import signal
import subprocess
import sys
from collections import namedtuple
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import retouch
from manifests import alter
from pipelines import painted, picture, pipeline
from retouch import ArchiveError, Editor, UndoError
from retouch.editing.history import History
from retouch.editing.manifest import MANIFEST, Manifest, checksum

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

Node = namedtuple("Node", "number parent", defaults=[None])


@cache
def editor():
    return Editor(pipeline("ddpm"), policy="fast")


@pytest.fixture
def tree():
    """0 - 1 - 2 and 1 - 3 and 0 - 4, at 4."""
    history = History()
    for number, parent in enumerate([None, 0, 1, 1, 0]):
        history = history.added(Node(number, parent))
    return history


def numbers(nodes):
    return [node.number for node in nodes]


def test_paths_and_lines(tree):
    assert numbers(tree.path(3)) == [0, 1, 3]
    assert tree.line() == (0, 4)
    assert tree.descendants(1) == {1, 2, 3}
    assert tree.is_tree


def test_redo_leads_where_undo_came_from(tree):
    at = tree.at(2).undone().undone()
    assert (at.current, at.line()) == (0, (0, 1, 2))
    assert at.redone().redone().current == 2
    with pytest.raises(UndoError, match="nothing to redo"):
        at.redone().redone().redone()
    with pytest.raises(UndoError, match="nothing to undo"):
        at.undone()


def test_a_jump_off_the_line_makes_redo_lead_to_what_was_made_last_there(tree):
    assert tree.at(1).line() == (0, 1, 3)
    assert tree.at(0).line() == (0, 4)
    with pytest.raises(UndoError, match="no version 9"):
        tree.at(9)


def test_a_version_goes_with_all_that_was_made_from_it(tree):
    assert numbers(tree.without(1).versions) == [0, 4]
    at = tree.at(2).undone()
    assert at.without(2).line() == (0, 1, 3)
    for number in (0, 4):
        with pytest.raises(UndoError, match="cannot be removed"):
            tree.without(number)


@pytest.mark.parametrize("nodes", [[(0, None), (0, 0)], [(0, None), (1, 2), (2, 0)], [(0, None), (1, None)], [(1, 0)]])
def test_what_is_no_tree(nodes):
    assert not History(tuple(Node(*node) for node in nodes)).is_tree


@pytest.fixture
def saved(tmp_path):
    """A folder with a photograph and two branches, at the second one; pictures by number."""
    folder = tmp_path / "session"
    with editor().open(picture("ddpm"), steps=2, strength=1.0, folder=folder) as session:
        session.edit(painted(session.pixels))
        session.undo()
        session.edit(painted(session.pixels, 20, 3))
        session.rename(2, "other corner")
        return folder, {version.number: version.pixels for version in session.versions}


def test_branches_survive_in_the_folder(saved):
    folder, pictures = saved
    with retouch.open(folder, editor=editor()) as session:
        assert [(v.number, v.parent, v.name) for v in session.versions] == [
            (0, None, None),
            (1, 0, None),
            (2, 0, "other corner"),
        ]
        assert session.version.number == 2
        for number in (1, 0, 2):
            assert np.array_equal(np.asarray(session.go(number)), pictures[number])
        session.go(1)
        session.edit(painted(session.pixels, 3, 20))
        edited = session.pixels
    with retouch.open(folder, editor=editor()) as session:
        assert (session.version.number, session.version.parent) == (3, 1)
        assert np.array_equal(session.pixels, edited)
        session.forget(2)
        with pytest.raises(UndoError, match="cannot be removed"):
            session.forget(1)
    assert not (folder / "versions" / "0002").exists()
    with retouch.open(folder, editor=editor()) as session:
        assert [version.number for version in session.versions] == [0, 1, 3]


def test_an_edit_of_a_branch_equals_the_same_edit_without_others(saved):
    folder, _ = saved
    plain = editor().open(picture("ddpm"), steps=2, strength=1.0)
    plain.edit(painted(plain.pixels))
    plain.edit(painted(plain.pixels, 3, 20))
    with retouch.open(folder, editor=editor()) as session:
        session.go(1)
        session.edit(painted(session.pixels, 3, 20))
        assert np.array_equal(session.pixels, plain.pixels)
        assert [v.number for v in session.branch().versions] == [0, 1, 3]


def test_the_tree_survives_a_kill(saved):
    folder, pictures = saved
    text = f"""
import os, signal, sys
sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
import retouch
from retouch import Editor
from pipelines import pipeline
session = retouch.open({str(folder)!r}, editor=Editor(pipeline("ddpm"), policy="fast"))
session.go(1)
session.rename(1, "kept")
os.kill(os.getpid(), signal.SIGKILL)
"""
    ran = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    with retouch.open(folder, editor=editor()) as session:
        assert (session.version.number, session.version.name) == (1, "kept")
        assert np.array_equal(session.pixels, pictures[1])
        assert np.array_equal(np.asarray(session.go(2)), pictures[2])


def test_folders_that_list_versions_open_as_a_line(saved):
    folder, _ = saved
    file = folder / MANIFEST
    body = json.loads(file.read_text())
    del body["tip"], body["checksum"], body["format"]
    body.update(
        current=0, versions=[{k: v for k, v in e.items() if k not in ("parent", "name")} for e in body["versions"]]
    )
    file.write_text(json.dumps({"format": 2, **body, "checksum": checksum(body)}))
    manifest = Manifest.read(folder)
    assert [entry.parent for entry in manifest.versions] == [None, 0, 1]
    assert manifest.history.redone().redone().current == 2


@pytest.mark.parametrize("change", [{"parent": 2}, {"parent": 7}, {"parent": None}, {"number": 0}])
def test_trees_that_cannot_be_are_refused(change, saved):
    folder, _ = saved
    alter(folder, lambda body: body["versions"][1].update(change))
    with pytest.raises(ArchiveError, match="damaged"):
        Manifest.read(folder)
