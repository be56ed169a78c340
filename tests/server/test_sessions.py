"""Sessions over the API: made, edited, moved, listed, deleted."""

import numpy as np
import pytest

from pipelines import painted, picture
from studios import asking, created, edited, editor, idle, pixels, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def client(tmp_path):
    with asking(studio(tmp_path)) as client:
        yield client


def test_an_edit_equals_that_of_the_library(client):
    id_ = created(client)
    assert edited(client, id_, 0).status_code == 202
    found = idle(client, id_)
    assert (found["head"], [v["parent"] for v in found["tree"]]) == (1, [None, 0])
    session = editor().open(picture("ddpm"), steps=2, strength=1.0)
    session.edit(painted(session.pixels))
    assert np.array_equal(pixels(client, id_, 1), session.pixels)
    assert np.array_equal(pixels(client, id_, 0), picture("ddpm"))
    assert found["tree"][1]["share"] < 1
    assert found["tree"][1]["saved"] > 1
