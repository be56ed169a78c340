"""Tokens, addresses, and what the server is reached by."""

import json
import socket
import stat
from contextlib import closing

import pytest

from retouch import OptionError
from retouch.server import serve


def test_tokens_are_made_once_and_read_by_their_owner_only(tmp_path):
    home = tmp_path / "home"
    first = serve.tokens_of(home, ["anna", "ben"])
    assert len(set(first.values())) == 2
    assert all(len(token) == 43 for token in first.values())
    assert stat.S_IMODE((home / "tokens.json").stat().st_mode) == 0o600
    assert serve.tokens_of(home, ["ben", "carl"]).items() >= {"ben": first["ben"]}.items()
    assert serve.tokens_of(home, ["anna"]) == {"anna": first["anna"]}


@pytest.mark.parametrize("user", ["", "..", "a/b", "Anna", "-a", "a" * 33, "lock"])
def test_users_are_names_of_folders_that_lead_nowhere(tmp_path, user):
    if user == "lock":
        assert serve.tokens_of(tmp_path, [user])
        return
    with pytest.raises(OptionError, match="no name of a user"):
        serve.tokens_of(tmp_path, [user])


@pytest.mark.parametrize("text", ["", "[]", '{"anna": 3}', '{"anna": "short"}', '{"../x": "' + "a" * 43 + '"}'])
def test_a_damaged_file_of_tokens_is_said(tmp_path, text):
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(OptionError, match="damaged"):
        serve.tokens_of(tmp_path, ["anna"])
    assert (tmp_path / "tokens.json").read_text() == text


def test_a_port_that_is_taken_is_said():
    with closing(serve.listening("127.0.0.1", 0)) as first, pytest.raises(OptionError, match="take another --port"):
        serve.listening("127.0.0.1", first.getsockname()[1])


def test_who_may_ask_follows_from_the_address():
    here = serve.access_to(8000, "127.0.0.1", {"anna": "x"})
    assert here.is_ours("localhost:8000")
    assert not here.is_ours("192.168.0.9:8000")
    everywhere = serve.access_to(8000, "0.0.0.0", {"anna": "x"}, ["studio.example"])
    assert everywhere.is_ours("192.168.0.9:8000")
    assert everywhere.is_ours(f"{socket.gethostname().lower()}:8000")
    assert everywhere.is_ours("studio.example:8000")
    assert not everywhere.is_ours("evil.example:8000")
    assert serve.access_to(8000, "studio.lan", {"anna": "x"}).is_ours("studio.lan:8000")
    for host, names in (("0.0.0.0", []), ("::", []), ("192.168.0.9", []), ("127.0.0.1", ["studio.example"])):
        with pytest.raises(OptionError, match="this machine alone"):
            serve.access_to(8000, host, {}, names)
    assert serve.access_to(8000, "127.0.0.1", {}).tokens == {}


def test_a_port_can_be_shared_among_those_that_say_so():
    with closing(serve.listening("127.0.0.1", 0, shared=True)) as first:
        port = first.getsockname()[1]
        serve.listening("127.0.0.1", port, shared=True).close()
        with pytest.raises(OptionError, match="take another --port"):
            serve.listening("127.0.0.1", port)


def test_secrets_of_a_link_stand_behind_the_hash():
    assert serve.link("127.0.0.1", 8188, "t", "s") == "http://127.0.0.1:8188/#token=t&session=s"
    assert serve.link("::1", 8188, None, None) == "http://[::1]:8188/"
    assert serve.link("0.0.0.0", 8188, "t", None) == "http://127.0.0.1:8188/#token=t"
    assert json.dumps(serve.link("localhost", 1, "a&b", None)).count("?") == 0
