"""A client of a server with a tiny model."""

import pytest

from studios import asking, studio


@pytest.fixture
def client(tmp_path):
    with asking(studio(tmp_path)) as client:
        yield client
