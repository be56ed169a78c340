"""Two servers of one folder: a session is open in one of them, and goes to the other when that is asked for it."""

import numpy as np
import pytest
from starlette.websockets import WebSocketDisconnect

from pipelines import painted, picture
from retouch.server.limits import Limits
from studios import asking, created, edited, editor, idle, page, pixels, studio

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


@pytest.fixture
def clients(tmp_path):
    """Clients of two servers of one folder, with these."""
    made = [studio(tmp_path, Limits(wait=20)) for _ in range(2)]
    with asking(made[0]) as first, asking(made[1]) as second:
        yield (first, second), made


def expected(*strokes):
    session = editor().open(picture("ddpm"), steps=2, strength=1.0)
    for left, top in strokes:
        session.edit(painted(session.pixels, top, left))
    return session.pixels


def test_a_session_goes_from_server_to_server(clients):
    (first, second), made = clients
    id_ = created(first)
    assert [each["id"] for each in second.get("/api/sessions").json()] == [id_]
    assert edited(first, id_, 0).status_code == 202
    idle(first, id_)
    with page(first, id_) as open_page:
        assert edited(second, id_, 1, left=2, top=20).status_code == 202
        with pytest.raises(WebSocketDisconnect) as closed:
            open_page.hear(lambda message: False)
        assert closed.value.code == 1013  # come again
    idle(second, id_)
    assert made[0].pool.find("anna", id_).session is None
    assert np.array_equal(pixels(first, id_, 2), expected((14, 9), (2, 20)))
    assert edited(first, id_, 2, left=24, top=2).status_code == 202
    assert [version["version"] for version in idle(first, id_)["tree"]] == [0, 1, 2, 3]


def test_a_server_that_wakes_up_late_loses_the_edit_it_had_and_no_other(clients):
    """As after SIGSTOP: the other one has taken over before the first one seals what it computed."""
    (first, second), made = clients
    id_ = created(first)
    late, other = (each.pool for each in made)
    entry = late.find("anna", id_)
    other.holder.lives = lambda holder: False  # nothing was seen of the first one for long
    with late.using(entry) as session:
        assert edited(second, id_, 0).status_code == 202
        idle(second, id_)
        reply = edited(first, id_, 0, left=2, top=20)  # it does not know yet
        assert reply.status_code == 202
        job = entry.jobs[reply.json()["job"]]
        assert "another server" in str(job.exception(60))
        assert session.archive.claim.is_lost
    idle(second, id_)
    assert np.array_equal(pixels(second, id_, 1), expected((14, 9)))
    assert idle(first, id_)["head"] == 1
    assert entry.session is None
    del other.holder.lives


def test_while_a_server_computes_for_a_session_others_wait_and_then_say_so(tmp_path):
    made = [studio(tmp_path, Limits(wait=0.3)) for _ in range(2)]
    with asking(made[0]) as first, asking(made[1]) as second:
        id_ = created(first)
        with made[0].pool.using(made[0].pool.find("anna", id_)):
            reply = edited(second, id_, 0)
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")


def test_a_session_that_another_server_deleted_is_gone(clients):
    (first, second), _ = clients
    id_ = created(first)
    assert second.get(f"/api/sessions/{id_}").status_code == 200
    assert second.delete(f"/api/sessions/{id_}").status_code == 204
    assert first.get(f"/api/sessions/{id_}").status_code == 404
    assert first.get("/api/sessions").json() == []
