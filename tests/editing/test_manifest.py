"""Manifests under damage: an ArchiveError, or the session that was saved."""

import json
import random
import shutil
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest

import retouch
from manifests import alter, to_format_1
from pipelines import painted, picture, pipeline
from retouch import ArchiveError, Editor, Policy
from retouch.editing.manifest import MANIFEST, Manifest, policy_fields
from retouch.editing.saved import Saved

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@cache
def editor():
    return Editor(pipeline("ddpm"), policy="fast")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a photograph and one edit."""
    folder = tmp_path_factory.mktemp("made") / "s"
    with editor().open(picture("ddpm"), steps=2, strength=1.0, folder=folder) as session:
        session.edit(painted(session.pixels))
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "s")


def opened(folder):
    """All pictures, and what is said of them."""
    with retouch.open(folder, editor=editor()) as session:
        return session.settings, session.position, [(v.facts, v.pixels.tolist()) for v in session.versions]


def harmless(folder, read, expected):
    """True when a folder reads as it was saved, False when it is refused as damaged."""
    try:
        found = read(folder)
    except ArchiveError:
        return False
    assert found == expected
    return True


def test_flipped_bits_and_cut_ends_are_noticed(folder):
    file, expected = folder / MANIFEST, Manifest.read(folder)
    data, random_ = file.read_bytes(), random.Random(0)
    unnoticed = 0
    for _ in range(600):
        place, bit = random_.randrange(len(data)), 1 << random_.randrange(8)
        file.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        unnoticed += harmless(folder, Manifest.read, expected)
    assert unnoticed < 6  # a letter of another case in 1e-05, or none of the content
    for place in random_.sample(range(len(data)), 200):
        file.write_bytes(data[:place])
        assert not harmless(folder, Manifest.read, expected)
    file.write_bytes(data)
    assert Manifest.read(folder) == expected


def keys(body, path=()):
    """The paths of all keys and places in plain data."""
    inside = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for name, value in inside:
        yield (*path, name)
        yield from keys(value, (*path, name))


def remove(body, path):
    for name in path[:-1]:
        body = body[name]
    del body[path[-1]]


def test_no_key_can_be_deleted_unnoticed(folder):
    file, expected = folder / MANIFEST, Manifest.read(folder)
    text = file.read_text()
    paths = list(keys(json.loads(text)))
    assert len(paths) > 100
    for path in paths:
        body = json.loads(text)
        remove(body, path)
        file.write_text(json.dumps(body))
        assert not harmless(folder, Manifest.read, expected), path


ANY = ("config", "seconds", "policy")
"""Mappings of which one part stands for all."""


@pytest.mark.parametrize("write", [alter, to_format_1])
def test_without_a_checksum_that_tells_only_archive_errors_are_raised(write, folder):
    """What is left is the structure, the files and the networks."""
    text, whole = (folder / MANIFEST).read_text(), []
    for path in keys(json.loads(text)):
        if path[0] in ("format", "checksum") or any(name in path[:-1] for name in ANY):
            continue
        (folder / MANIFEST).write_text(text)
        write(folder, lambda body, path=path: remove(body, path))
        try:
            Saved.read(folder)
        except ArchiveError:
            continue
        whole.append(path)
        try:
            opened(folder)
        except ArchiveError:
            continue
    assert len(whole) < 40


@pytest.mark.parametrize("part", ["denoiser", "layer", "config"])
def test_what_the_structure_does_not_tell_is_told_on_opening(part, folder):
    paths = {"denoiser": ("networks", "denoiser"), "layer": ("versions", 0, "layers", -1)}
    alter(folder, lambda body: remove(body, paths.get(part, ("settings", "scheduler", "config", "beta_end"))))
    with pytest.raises(ArchiveError):
        opened(folder)


def test_folders_of_the_first_format_open_and_go_on(folder):
    expected = opened(folder)
    to_format_1(folder)
    assert opened(folder) == expected
    with retouch.open(folder, editor=editor()) as session:
        session.edit(painted(session.pixels, 20, 3))
        image = session.pixels
    body = json.loads((folder / MANIFEST).read_text())
    assert body["format"] == 5
    assert body["networks"]["denoiser"]["policy"] == asdict(Policy.named("fast"))
    with retouch.open(folder, editor=editor()) as again:
        assert np.array_equal(again.pixels, image)


def test_a_policy_gets_fields_that_it_was_saved_without(folder):
    expected = opened(folder)
    alter(folder, lambda body: body["networks"]["denoiser"]["policy"].pop("probes"))
    assert opened(folder) == expected


@pytest.mark.parametrize("policy", [*map(Policy.named, ("paper", "balanced", "exact")), Policy("a 'b'", dilate=3)])
def test_policies_are_read_by_name_and_as_text(policy):
    assert policy_fields(asdict(policy)) == policy_fields(repr(policy)) == asdict(policy)
    assert policy_fields({"dilate": 3}) == asdict(replace(Policy(), dilate=3))


@pytest.mark.parametrize(
    "saved",
    [
        3,
        "0",
        "Policy",
        "Policy('fast')",
        "Policy(*[1])",
        "Policy(**{'dilate': 1})",
        "Policy(dilate=open('x'))",
        "retouch.Policy(dilate=3)",
        "Policy(dilate=3); 1",
        "Policy(dilate=" + "(" * 3000,
        {"dilate": True},
        {"stats": "other"},
        {"crossover": float("nan")},
    ],
)
def test_what_is_no_policy_runs_nothing(saved, folder):
    with pytest.raises((ValueError, SyntaxError, ArchiveError)):
        policy_fields(saved)
    alter(folder, lambda body: body["networks"]["denoiser"].update(policy=saved))
    with pytest.raises(ArchiveError, match=r"damaged|does not know"):
        Manifest.read(folder)
