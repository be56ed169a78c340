"""Session folders that several servers share: one writes at a time, and who comes too late changes nothing."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from retouch.editing import home
from retouch.editing.archive import Archive
from retouch.editing.home import Folders, LostError
from retouch.editing.lease import HeldError, Holder, claimed
from retouch.editing.manifest import MANIFEST, ArchiveError


class Clock:
    """A monotonic clock that only a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Text:
    """As much of a manifest as `Archive.commit` reads."""

    def __init__(self, text):
        self._text = text

    def text(self):
        return self._text


@pytest.fixture
def holders(tmp_path):
    """Makes servers of one folder that never give a sign by themselves, with clocks of their own."""
    made = []

    def holder(**options):
        found = Holder(Folders(tmp_path), clock=Clock(), beat=1e6, **options)
        made.append(found)
        return found

    yield holder
    for each in made:
        each.close()


@pytest.fixture
def folder(tmp_path):
    found = tmp_path / "anna" / ("0" * 32)
    found.mkdir(parents=True)
    return found


def archive(claim):
    with claimed(claim):
        return Archive.create(claim.folder)


def passed_over(other, holder):
    """Let a server see nothing of another one for long."""
    assert other.lives(holder.id)
    other.clock.now += other.ttl + 1
    assert not other.lives(holder.id)


def test_a_folder_has_one_owner_that_lives(holders, folder):
    first, second = holders(), holders()
    claim = first.claim(folder)
    with pytest.raises(HeldError) as caught:
        second.claim(folder)
    assert caught.value.holder == first.id
    second.clock.now += 1e9  # that it was not looked at for long says nothing
    first.home.sign()
    with pytest.raises(HeldError):
        second.claim(folder)
    claim.release()
    assert second.claim(folder).number == claim.number + 1


def test_signs_are_compared_with_themselves_and_not_with_a_clock(holders, folder):
    first, second = holders(), holders()
    first.claim(folder)
    beat = first.home._server / "beat"
    for moment in (4e9, 1.0, 3e9):  # a machine whose clock goes wild
        os.utime(beat, (moment, moment))
        second.clock.now += second.ttl - 1
        with pytest.raises(HeldError):
            second.claim(folder)
    second.clock.now += second.ttl + 1
    assert second.claim(folder).number == 2


def test_a_holder_that_wakes_up_late_seals_nothing(holders, folder):
    first, second = holders(), holders()
    old = archive(first.claim(folder))
    old.commit(Text("one"))
    passed_over(second, first)
    new = second.claim(folder)
    with pytest.raises(LostError):
        old.commit(Text("two"))
    assert (folder / MANIFEST).read_text() == "one"
    assert not list(folder.glob("*.new"))
    with claimed(new):
        Archive(folder).commit(Text("three"))
    with pytest.raises(LostError):
        old.commit(Text("four"))
    assert (folder / MANIFEST).read_text() == "three"


@pytest.mark.parametrize("late", ["between the look and the rename", "before the look"])
def test_a_commit_that_was_paused_fails_or_is_seen(holders, folder, monkeypatch, late):
    """The owner stops inside `commit`; meanwhile another takes over and commits."""
    first, second = holders(), holders()
    old = archive(first.claim(folder))
    old.commit(Text("one"))

    def other():
        passed_over(second, first)
        with claimed(second.claim(folder)):
            Archive(folder).commit(Text("other"))

    admit = old.claim.admit
    if late == "before the look":
        monkeypatch.setattr(old.claim, "admit", lambda manifest: (other(), admit(manifest)))
    else:
        monkeypatch.setattr(old.claim, "admit", lambda manifest: (admit(manifest), other()))
    with pytest.raises(LostError):
        old.commit(Text("two"))
    assert (folder / MANIFEST).read_text() == "other"


def test_a_late_holder_removes_nothing_of_its_successor(holders, folder):
    first, second = holders(), holders()
    old = archive(first.claim(folder))
    versions = folder / "versions"
    (versions / f"0001-{old.revision}").mkdir()
    passed_over(second, first)
    with claimed(second.claim(folder)):
        new = Archive(folder)
    assert new.revision > old.revision
    (versions / f"0002-{new.revision}").mkdir()
    old.staging(f"0002-{old.revision}")
    old.clean([])
    assert [each.name for each in versions.iterdir()] == [f"0002-{new.revision}"]
    new.clean([])
    assert not list(versions.iterdir())


def test_a_late_taker_does_not_undo_a_later_one(holders, folder, monkeypatch):
    first, second, third = holders(), holders(), holders()
    first.claim(folder).release()
    fence, claims = home._fence, []

    def paused(at, number):
        if not claims:
            claims.append(None)
            passed_over(third, second)
            with claimed(third.claim(at)):
                claims.append(Archive(at))
            (at / claims[1].claim.unfinished).write_text("on its way")
        fence(at, number)

    monkeypatch.setattr(home, "_fence", paused)
    late = second.claim(folder)
    assert late.is_lost
    assert (folder / claims[1].claim.unfinished).exists()
    claims[1].commit(Text("third"))


def test_a_number_that_was_taken_and_removed_is_not_taken_again(holders, folder):
    slow, quick, quicker = holders(), holders(), holders()
    slow.claim(folder).release()
    passed_over(quicker, quick)
    numbers = []

    def others_come_first(other):
        if not numbers:
            numbers.extend(taker.claim(folder).number for taker in (quick, quicker))
        return False

    quick.claim(folder)
    slow.lives = others_come_first
    passed_over(quick, quick)
    claim = slow.claim(folder)
    assert claim.number > max(numbers)
    assert not claim.is_lost


def claimed_at_once(folders):
    """The claims of holders that see nothing of each other, each on its folder."""
    claims, start = [], threading.Barrier(len(folders))

    def take(taker, folder):
        start.wait()
        claims.append(taker.claim(folder))

    threads = [threading.Thread(target=take, args=each) for each in folders.items()]
    for taker in folders:
        taker.lives = lambda other: False
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return claims


def test_many_takers_at_once_get_numbers_of_their_own(holders, folder):
    claims = claimed_at_once({holders(): folder for _ in range(6)})
    assert len({claim.number for claim in claims}) == 6
    assert sum(not claim.is_lost for claim in claims) == 1


def test_a_session_is_asked_for(holders, folder):
    asked = []
    first, second = holders(wanted=asked.append), holders()
    first.claim(folder)
    second.ask(first.id, folder.name)
    first.look(first.home.asked())
    first.look(first.home.asked())
    assert asked == [folder.name]


def test_who_was_away_for_long_looks_what_it_lost(holders):
    told = []
    holder = holders(late=lambda: told.append(1))
    holder.clock.now += holder.ttl / 2
    holder.look([])
    assert not told
    holder.clock.now += holder.ttl * 2
    holder.look([])
    assert told == [1]


CHILD = """
import sys, time
from pathlib import Path
from retouch.editing.home import Folders
from retouch.editing.lease import Holder
holder = Holder(Folders(Path(sys.argv[1])))
holder.claim(Path(sys.argv[2]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_process_of_this_machine_that_ended_is_passed_over_at_once_and_a_stopped_one_is_not(
    tmp_path, holders, folder
):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), str(folder)], stdout=subprocess.PIPE, text=True
    )
    with child:
        assert child.stdout.readline() == "held\n"
        other = holders()
        os.kill(child.pid, signal.SIGSTOP)
        with pytest.raises(HeldError):
            other.claim(folder)
        child.kill()
        child.wait()
        assert other.claim(folder).number == 2


def test_numbers_go_on_in_a_folder_that_was_copied_without_its_claims(holders, folder):
    (folder / "versions" / "0003-7001").mkdir(parents=True)
    assert holders().claim(folder).number == 8


def test_other_programs_of_the_machine_keep_away(holders, folder):
    owned = archive(holders().claim(folder))
    owned.commit(Text("{}"))
    with pytest.raises(ArchiveError, match="in use"):
        Archive(folder)
    owned.close()
    Archive(folder).close()


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / home.SERVERS).write_text("")
    with pytest.raises(ArchiveError, match="cannot keep sessions"):
        Holder(Folders(tmp_path))


def test_a_claim_that_cannot_be_written_leaves_the_folder_free(holders, folder, monkeypatch):
    first, second = holders(), holders()
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        first.claim(folder)
    monkeypatch.undo()
    assert second.claim(folder).number == 1
    assert not [name for name in os.listdir(Path(folder) / home.OWNERS) if name.startswith(".")]
