"""Sessions in a store of objects: one server goes on with a log at a time, and who comes too late changes nothing."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import stores
from editing.test_lease import claimed_at_once
from retouch import OptionError
from retouch.editing import bucket
from retouch.editing.archive import Archive
from retouch.editing.bucket import DAY, Bucket
from retouch.editing.home import LostError
from retouch.editing.lease import HeldError, Holder, claimed
from retouch.editing.manifest import PICTURE, ArchiveError, Entry, Manifest
from retouch.editing.store import StorageError, Store

ID = "0" * 32
SETTINGS = {"model": "m", "height": 4, "width": 4, "editor": {"policy": {}, "backend": "b", "dtype": "float32"}}


class Clock:
    """A monotonic clock that only a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def store():
    with stores.emptied() as found:
        yield found


@pytest.fixture
def servers(store, tmp_path):
    """Makes servers of one store that never give a sign by themselves, with clocks of their own."""
    made = []

    def server(**options):
        found = Holder(Bucket(stores.URL, tmp_path), clock=Clock(), beat=1e6, **options)
        made.append(found)
        return found

    yield server
    stores.Faulty.before = stores.Faulty.after = None
    for each in made:
        each.close()


def at(server):
    return server.home.folder / "anna" / ID


def opened(server, make=False):
    """The session under a claim of a server."""
    if make:
        server.home.make(at(server))
    claim = server.claim(at(server))
    with claimed(claim):
        return Archive.create(claim.folder, True) if make else Archive(claim.folder)


def sealed(archive, *texts):
    """Commit a manifest with a version for each text; those that are there already are not written again."""
    entries = []
    for number, text in enumerate(texts):
        name = f"{number:04d}-{archive.revision}"
        folder = archive.folder(name)
        if not folder.exists() or (folder / PICTURE).read_text() != text:
            archive.write(archive.staging(name), {PICTURE: text.encode()})
            archive.seal(name)
        facts = {"edit": text, "region": 0.5, "bytes_read": 0, "seconds": {}}
        files = {PICTURE: {"bytes": len(text), "blake2b": blake2b(text.encode(), digest_size=16).hexdigest()}}
        parent = number - 1 if number else None
        entries.append(Entry(number, facts, (), files, parent, None, archive.revision))
    last = len(entries) - 1
    archive.commit(Manifest("diffusion", SETTINGS, "fp32", {}, tuple(entries), last, last, True))
    archive.clean([entry.folder for entry in entries])


def read(server):
    """What another server than its owner sees of the session: the texts of its versions."""
    folder = at(server)
    server.home.refresh(folder, True)
    manifest = Manifest.read(folder)
    return [(folder / "versions" / each.folder / PICTURE).read_text() for each in manifest.versions]


def blind(server):
    """Let a server see nothing of others for long."""
    server.lives = lambda holder: False


def test_what_is_sealed_is_there_for_others(servers):
    first, second = servers(), servers()
    archive = opened(first, make=True)
    sealed(archive, "one")
    assert read(second) == ["one"]
    with pytest.raises(HeldError):
        second.claim(at(second))
    archive.close()
    assert not at(first).exists()
    again = opened(second)
    assert Manifest.read(again.path).versions[0].facts["edit"] == "one"
    assert again.revision > archive.revision


def test_logs_and_files_do_not_grow(servers):
    archive = opened(servers(), make=True)
    sealed(archive, "one")
    for text in ("two", "three", "four"):
        sealed(archive, "one", text)
    assert len(stores.names(f"/log/anna/{ID}.")) == 1
    assert len(stores.names("/files/")) == 2


def test_an_owner_that_wakes_up_late_seals_nothing(servers):
    first, second = servers(), servers()
    old = opened(first, make=True)
    sealed(old, "one")
    blind(second)
    new = opened(second)
    with pytest.raises(LostError):
        sealed(old, "one", "two")
    assert old.is_lost
    assert read(servers()) == ["one"]
    sealed(new, "one", "three")
    with pytest.raises(LostError):
        sealed(old, "one", "four")
    old.close()
    assert read(servers()) == ["one", "three"]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_owner_that_was_paused_while_it_sealed_fails_and_what_it_sealed_is_seen_or_not_there(servers, store, moment):
    """Another takes over while the number of the log is on its way, or when it is there and not looked at yet."""
    first, second = servers(), servers()
    old = opened(first, make=True)
    sealed(old, "one")
    blind(second)

    def meanwhile(what, path):
        if (what, "/log/" in path) == ("create", True):
            setattr(store, moment, None)
            sealed(opened(second), *(["one"] if moment == "before" else ["one", "two"]), "other")

    setattr(store, moment, staticmethod(meanwhile))
    with pytest.raises(LostError):
        sealed(old, "one", "two")
    assert read(servers()) == (["one", "other"] if moment == "before" else ["one", "two", "other"])


@pytest.mark.parametrize("all_removed", [True, False])
def test_a_number_that_was_taken_and_removed_is_not_taken_again(servers, store, all_removed):
    """Two others come and go before the owner goes on, and remove what it knows, or could not remove that."""
    first, second, third = servers(), servers(), servers()
    old = opened(first, make=True)
    sealed(old, "one")
    last = stores.names("/log/")[0]
    store.before = staticmethod(
        lambda does, path: fail(errno.EIO) if (does, path, all_removed) == ("remove", last, False) else None
    )
    for other in (second, third):
        blind(other)
        sealed(opened(other), "one", "other")
    with pytest.raises(LostError):
        sealed(old, "one", "two")
    assert read(servers()) == ["one", "other"]


@pytest.mark.parametrize("known", [True, False])
def test_a_late_owner_does_not_bring_a_deleted_session_back(servers, store, known):
    """While it is known that it was deleted, and later."""
    first, second = servers(), servers()
    old = opened(first, make=True)
    sealed(old, "one")
    second.home.remove(at(second))
    if not known:
        for name in stores.names("/log/"):
            del store.store[name]
    with pytest.raises(LostError):
        sealed(old, "one", "two")
    assert not second.home.has(at(second))
    assert second.home.of("anna") == []


def test_a_seal_of_which_no_answer_came_is_not_in_the_way_of_the_next(servers, store):
    first = servers()
    archive = opened(first, make=True)
    sealed(archive, "one")

    def unheard(what, path):
        if what == "create":
            store.after, store.before = None, staticmethod(lambda *_: fail(errno.EIO))
            fail(errno.EIO)

    store.after = staticmethod(unheard)
    with pytest.raises(ArchiveError, match="the last state stays"):
        sealed(archive, "one", "two")
    store.before = None
    sealed(archive, "one", "three")
    assert read(servers()) == ["one", "three"]


def fail(number):
    raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ETIMEDOUT])
@pytest.mark.parametrize("what", ["write", "create", "list"])
def test_where_the_store_is_full_or_gone_the_last_state_stays(servers, store, what, number):
    first = servers()
    archive = opened(first, make=True)
    sealed(archive, "one")
    store.before = staticmethod(lambda does, path: fail(number) if does == what else None)
    with pytest.raises(ArchiveError, match=f"{os.strerror(number)}; the last state stays"):
        sealed(archive, "one", "two")
    store.before = None
    archive.close()
    assert read(servers()) in (["one"], ["one", "two"])
    assert (what, read(servers())) != ("write", ["one", "two"])
    sealed(opened(servers()), "one", "three")
    assert read(servers()) == ["one", "three"]


def test_an_edit_that_failed_is_not_sealed_when_the_session_is_closed(servers, store):
    archive = opened(servers(), make=True)
    sealed(archive, "one")
    store.before = staticmethod(lambda does, path: fail(errno.EIO) if does == "create" else None)
    with pytest.raises(ArchiveError):
        sealed(archive, "one", "two")
    store.before = None
    archive.close()
    assert read(servers()) == ["one"]


def test_a_claim_whose_files_cannot_be_had_is_released(servers, store):
    first, second = servers(), servers()
    archive = opened(first, make=True)
    sealed(archive, "one")
    archive.close()
    store.before = staticmethod(lambda does, path: fail(errno.EIO) if "/files/" in path else None)
    with pytest.raises(StorageError):
        second.claim(at(second))
    store.before = None
    opened(first)


def test_who_reads_a_session_that_is_just_claimed_waits_for_its_files(servers, store):
    first, second = servers(), servers()
    archive = opened(first, make=True)
    sealed(archive, "one")
    archive.close()
    fetching, go = threading.Event(), threading.Event()

    def wait(does, path):
        if does == "read" and "/files/" in path:
            fetching.set()
            assert go.wait(60)

    store.before = staticmethod(wait)
    with ThreadPoolExecutor(2) as threads:
        claim = threads.submit(second.claim, at(second))
        assert fetching.wait(60)
        seen = threads.submit(read, second)
        with pytest.raises(TimeoutError):
            seen.result(0.1)
        go.set()
        assert seen.result(60) == ["one"]
        claim.result(60).release()


def test_many_takers_at_once_get_numbers_of_their_own(servers):
    takers = [servers() for _ in range(6)]
    takers[0].home.make(at(takers[0]))
    claims = claimed_at_once({taker: at(taker) for taker in takers})
    assert len({claim.number for claim in claims}) == 6
    assert sum(not claim.is_lost for claim in claims) == 1


def test_a_session_is_asked_for_and_signs_are_seen(servers):
    asked = []
    first, second = servers(wanted=asked.append), servers()
    first.home.make(at(first))
    first.claim(at(first))
    second.ask(first.id, ID)
    first.look(first.home.asked())
    first.look(first.home.asked())
    assert asked == [ID]
    assert second.lives(first.id)
    second.clock.now += second.ttl + 1
    assert not second.lives(first.id)
    first.home.sign()
    assert second.lives(first.id)
    assert second.other(at(second)) == first.id


def test_what_was_begun_or_deleted_long_ago_is_removed(servers, store, monkeypatch):
    first = servers()
    first.home.make(at(first))
    assert list(first.home.unfinished(10)) == []
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + DAY + 60)
    assert list(first.home.unfinished(10)) == [at(first)]
    first.home.remove(at(first))
    assert list(first.home.unfinished(10)) == []
    assert len(stores.names("/log/")) == 1
    monkeypatch.setattr(time, "time", lambda: now + 2 * (DAY + 60))
    assert list(first.home.unfinished(10)) == []
    assert stores.names("/log/") == []


def test_what_is_handed_over_can_be_fetched_until_it_is_discarded(servers):
    first, second = (servers().home for _ in range(2))
    file = first.incoming()
    file.write_bytes(b"body")
    name = first.hand_over(file)
    assert not file.exists()
    for _ in range(2):
        found = second.fetch(name)
        assert found.read_bytes() == b"body"
        second.put_down(found)
        assert not found.exists()
    first.discard(name)
    with pytest.raises(FileNotFoundError):
        second.fetch(name)


def test_copies_of_sessions_of_others_are_bounded(servers, monkeypatch):
    monkeypatch.setattr(bucket, "COPIES", 1)
    first, second = servers(), servers()
    for number in "01":
        folder = first.home.folder / "anna" / (number * 32)
        first.home.make(folder)
        with claimed(first.claim(folder)):
            sealed(Archive.create(folder, True), number)
        second.home.refresh(second.home.folder / "anna" / (number * 32), True)
    assert os.listdir(second.home.folder / "anna") == ["1" * 32]
    assert read(second) == ["0"]


def test_a_session_of_a_newer_version_stays_as_it_is(servers):
    first, second = servers(), servers()
    archive = opened(first, make=True)
    sealed(archive, "one")
    archive.close()
    number, seal = first.home._last(at(first))
    text = seal.manifest.replace('"format": 4', '"format": 9')
    assert first.home._append(at(first), number + 1, replace(seal, manifest=text).data())
    kept = stores.names("/files/")
    claim = second.claim(at(second))
    with claimed(claim), pytest.raises(ArchiveError, match="update retouch"):
        Archive.open(claim.folder)
    claim.release()
    assert stores.names("/files/") == kept
    assert first.home._last(at(first))[1].manifest == text


# Stores


class Racy(MemoryFileSystem):
    """Looks whether an object is there and then makes it, as file systems without conditional writes do."""

    protocol = "racy"

    def pipe_file(self, path, value, mode="overwrite", **options):
        if mode == "create" and self.exists(path):
            raise FileExistsError
        time.sleep(0.05)
        super().pipe_file(path, bytes(value))


class Unable(MemoryFileSystem):
    """Has no exclusive creation."""

    protocol = "unable"

    def pipe_file(self, path, value, mode="overwrite", **options):
        if mode == "create":
            raise NotImplementedError("no conditional writes")
        super().pipe_file(path, bytes(value))


@pytest.mark.parametrize(("kind", "why"), [(Racy, "whether it was the one"), (Unable, "no conditional writes")])
def test_a_store_where_several_can_create_one_object_is_refused(kind, why):
    fsspec.register_implementation(kind.protocol, kind, clobber=True)
    with pytest.raises(OptionError, match=why):
        Store(f"{kind.protocol}://trial").prove()


@pytest.mark.parametrize("where", [stores.URL, "file", "folder"])
def test_a_store_that_can_is_taken(store, tmp_path, where):
    found = Store({"file": f"file://{tmp_path}", "folder": tmp_path}.get(where, where))
    found.prove()
    assert found.names("") == {}
    assert found.create("a", b"1")
    assert found.create("a", b"1")  # sent twice on the way
    assert not found.create("a", b"2")
    found.write("a", b"3")
    assert (found.read("a"), found.names("")) == (b"3", {"a": 1})
    found.drop(["a", "b"])
    with pytest.raises(FileNotFoundError):
        found.read("a")


def test_what_is_missing_is_said(monkeypatch):
    with pytest.raises(OptionError, match="Protocol not known: nothing"):
        Store("nothing://bucket")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(OptionError, match="s3://bucket: Install s3fs"):
        Store("s3://bucket")


def test_whatever_a_driver_raises_is_told_as_one_thing(store):
    store.before = staticmethod(lambda *_: (_ for _ in ()).throw(RuntimeError("credentials")))
    for asks in (lambda: Store(stores.URL).read("a"), lambda: Store(stores.URL).drop(["a"])):
        with pytest.raises(StorageError, match="credentials"):
            asks()


# Processes

CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = [{tests!r}, {here!r}]
from retouch.editing.bucket import Bucket
from retouch.editing.lease import Holder
from test_bucket import at, opened, sealed
server = Holder(Bucket({url!r}, Path({scratch!r})))
archive = opened(server, make=True)
sealed(archive, "one")

def stop(*_):
    print("stopped", flush=True)
    time.sleep(600)

{where} = stop
sealed(archive, "one", "two")
"""


@pytest.mark.parametrize(
    ("where", "expected"),
    [("server.home._append", ["one"]), ("server.home._remember", ["one", "two"])],
    ids=["before it is sealed", "before anybody is told"],
)
def test_what_a_server_that_was_killed_had_sealed_is_there_and_nothing_else(tmp_path, where, expected):
    url, scratch = f"file://{tmp_path}/store", tmp_path / "scratch"
    tests, here = str(Path(stores.__file__).parent), str(Path(__file__).parent)
    text = CHILD.format(tests=tests, here=here, url=url, scratch=str(scratch), where=where)
    child = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout.readline() == "stopped\n"
        server = Holder(Bucket(url, scratch), beat=1e6)
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(HeldError):
            server.claim(at(server))
        child.kill()
        child.wait()
        archive = opened(server)
        assert read(server) == expected
        assert len(list((tmp_path / "store" / "files" / "anna" / ID).iterdir())) == len(expected)
        sealed(archive, *expected, "three")
        server.close()
    assert not [name for name in os.listdir(next(scratch.iterdir())) if name == server.id]
