"""The tree of a session's versions: what each was made from, where the session is, and where redo leads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Generic, Protocol, TypeVar

from retouch.runtime.state.in_place import UndoError


class Node(Protocol):
    """A version: its number, and that of the one that it was made from (None: the first)."""

    @property
    def number(self) -> int: ...  # noqa: D102
    @property
    def parent(self) -> int | None: ...  # noqa: D102


N = TypeVar("N", bound=Node)


@dataclass(frozen=True)
class History(Generic[N]):
    """Versions in the order in which they were made, each after its parent.

    current: the number of the one that is looked at. tip: that of the last one that redo reaches.
    """

    versions: tuple[N, ...] = ()
    current: int = -1
    tip: int = -1

    @cached_property
    def _numbered(self) -> dict[int, N]:
        return {version.number: version for version in reversed(self.versions)}

    def find(self, number: int) -> N | None:
        """The version of that number; None when there is none."""
        return self._numbered.get(number)

    def __getitem__(self, number: int) -> N:
        """The version of that number; UndoError when there is none."""
        found = self.find(number)
        if found is None:
            raise UndoError(f"there is no version {number}")
        return found

    def place(self, number: int) -> int:
        """Where the version of that number stands among all."""
        return self.versions.index(self[number])

    @property
    def is_tree(self) -> bool:
        """False for numbers that are there twice, and unless every version but the first has a parent before it."""
        seen: set[int | None] = set()
        for version in self.versions:
            if version.number in seen or (version.parent not in seen if seen else version.parent is not None):
                return False
            seen.add(version.number)
        return True

    def path(self, number: int) -> tuple[N, ...]:
        """The versions from the first one to that one."""
        found = [self[number]]
        while (parent := found[-1].parent) is not None:
            found.append(self[parent])
        return tuple(found[::-1])

    @property
    def past(self) -> tuple[N, ...]:
        """The versions from the first one to the current one; none where there is none."""
        return self.path(self.current) if self.versions else ()

    def line(self) -> tuple[int, ...]:
        """Numbers of the versions that undo and redo reach, in their order."""
        return tuple(version.number for version in self.path(self.tip))

    # Other histories

    def added(self, version: N) -> History[N]:
        """With one more version, which is then the current one."""
        return History((*self.versions, version), version.number, version.number)

    def at(self, number: int) -> History[N]:
        """At another version. Redo leads where it led; off that line to what was made last from there."""
        self[number]
        tip = self.tip if number in self.line() else max(self.descendants(number))
        return replace(self, current=number, tip=tip)

    def undone(self) -> History[N]:
        """At the parent; UndoError at the first version."""
        parent = self[self.current].parent
        if parent is None:
            raise UndoError("nothing to undo: this is the original")
        return self.at(parent)

    def redone(self) -> History[N]:
        """At the version that was undone last; UndoError when there is none."""
        if self.current == self.tip:
            raise UndoError("nothing to redo: no edit was undone, or a new one came after it")
        line = self.line()
        return self.at(line[line.index(self.current) + 1])

    def replaced(self, version: N) -> History[N]:
        """With that version in the place of the one of its number."""
        return replace(self, versions=tuple(version if v.number == version.number else v for v in self.versions))

    def without(self, number: int) -> History[N]:
        """Without a version and what was made from it. UndoError for what the current one was made from."""
        gone = self.descendants(number)
        if self.current in gone:
            raise UndoError(f"version {number} cannot be removed: the current one, {self.current}, was made from it")
        kept = replace(self, versions=tuple(version for version in self.versions if version.number not in gone))
        return replace(kept, tip=max(kept.descendants(self.current))) if self.tip in gone else kept

    def descendants(self, number: int) -> set[int]:
        """Numbers of a version and all that were made from it."""
        found = {self[number].number}
        for version in self.versions:  # parents come first
            if version.parent in found:
                found.add(version.number)
        return found
