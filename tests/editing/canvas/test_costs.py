"""Predicted seconds are corrected by measured ones."""

import numpy as np
import pytest

from editing.canvas.test_canvas import canvas


def test_what_was_measured_corrects_each_kind_of_work_by_itself():
    costs, mask = canvas().planner.costs, np.ones((32, 32), bool)
    record, edit, dense = costs.record, costs.edit(mask), costs.dense(1.0)
    costs.learn({"record": (record, 2 * record), "edit": (edit, 3 * edit)})
    assert costs.record == pytest.approx(2 * record)
    assert costs.edit(mask) == pytest.approx(3 * edit), "of what was predicted before anything was measured"
    assert costs.dense(1.0) == pytest.approx(2 * dense), "as recordings, until one was measured"
    costs.learn({"edit": (3 * edit, 12 * edit)})
    assert costs.edit(mask) == pytest.approx(6 * edit), "half of the way"
    assert costs.record == pytest.approx(2 * record)
    costs.learn({"dense": (2 * dense, dense)})
    assert costs.dense(1.0) == pytest.approx(dense)
