"""A cache that keeps what was asked for last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import RLock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The values of the `size` keys that were asked for last. Each is made once, by one thread at a time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = RLock()
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made if it is not known any more."""
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
            self._values.move_to_end(key)
            while len(self._values) > self.size:
                self._values.popitem(last=False)
            return self._values[key]

    def known(self, key: K) -> V | None:
        """The value of a key if it is there."""
        with self._lock:
            return self._values.get(key)

    def __len__(self) -> int:
        return len(self._values)
