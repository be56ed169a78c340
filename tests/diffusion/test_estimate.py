"""The estimated error of an edit, and edits that keep below a limit."""

import numpy as np
import pytest
import torch

from diffusion.test_session import opened
from pipelines import painted
from retouch.diffusion.estimate import Evidence
from retouch.region import Policy

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PROBED = Policy("probed", dilate=2, stats="probed", probes=9, probe_distance=1, crossover=0.9)


def test_edits_estimate_their_error_and_remember_the_evidence():
    session = opened("sd", PROBED)
    edited = session.edit(painted(session.pixels))
    assert edited.error is not None
    assert edited.error > 0
    found = Evidence(**session.version.facts["evidence"])
    assert found.error == edited.error
    assert found.moved > 0


def test_without_probes_there_is_no_estimate():
    session = opened("sd", "fast")
    assert session.edit(painted(session.pixels)).error is None
    with pytest.raises(ValueError, match="needs probed statistics"):
        session.edit(painted(session.pixels, 30, 30), max_error=3)


def test_a_limit_that_cannot_be_kept_computes_everything(tmp_path):
    session = opened("sd", PROBED)
    session.save(tmp_path / "session")
    drawn = painted(session.pixels)
    dense = session.reference(drawn)
    free = np.asarray(session.edit(drawn).image).astype(int)
    session.undo()
    strict = np.asarray(session.edit(drawn, max_error=1e-9).image).astype(int)
    truth = np.asarray(dense.image).astype(int)
    assert np.abs(strict - truth).max() <= 1
    assert np.abs(strict - truth).sum() < np.abs(free - truth).sum()
    assert not list((tmp_path / "session" / "versions").glob("*.part"))
    session.close()


def test_a_generous_limit_changes_nothing():
    session = opened("sd", PROBED)
    drawn = painted(session.pixels)
    free = session.edit(drawn).image
    session.undo()
    assert np.array_equal(session.edit(drawn, max_error=1e9).image, free)


def test_more_movement_means_more_error():
    old, new = torch.zeros(4, 8, 8), torch.full((4, 8, 8), 0.1)
    inside = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    inside[..., 2:5, 2:5] = True
    errors = []
    for moved in (0.01, 0.1, 1.0):
        found = Evidence.of({"step-000": (moved, moved / 10), "decoder": (moved, moved / 10)}, old, new, inside)
        errors.append(found.error)
        assert found.border == pytest.approx(0.1)
    assert errors == sorted(errors)
    assert Evidence.of({}, old, new, inside) is None
