"""Sessions of a trained model on the GPU: edits as on the CPU, nothing moves outside, undo gives back every bit."""

from itertools import pairwise

import numpy as np

import retouch
from retouch.plan.region import dilate

PICTURE = {"steps": 4, "guidance": 3, "seed": 1}


def difference(a, b):
    """Root mean square, in grey levels."""
    return float(np.sqrt(np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2)))


def edits(device):
    """A picture, and what some edits of it came to, with their masks."""
    session = retouch.load("builtin/emoji", device=device).generate("red apple", **PICTURE)
    found, mask = [(session.pixels, None)], np.zeros(session.size, bool)
    mask[40:60, 70:95] = True
    for number, words in enumerate(("crying face", "red heart", "a tree")):
        made = session.inpaint(np.roll(mask, 9 * number, 0), prompt=words)
        found.append((np.asarray(made.image), dilate(made.region.mask, session.policy.dilate)[0]))
    return session, found


def test_edits_are_those_of_the_cpu(gpu):
    (session, here), (_, there) = edits(gpu), edits("cpu")
    for (ours, _), (wanted, _) in zip(here, there, strict=True):
        assert difference(ours, wanted) < 2
    for (before, _), (after, mask) in pairwise(here):
        assert (before != after).any()
        assert np.array_equal(before[~mask], after[~mask])
    for pixels, _ in here[-2::-1]:
        session.undo()
        assert np.array_equal(session.pixels, pixels)
