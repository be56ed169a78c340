"""What a recording depends on, by which a saved session is known to fit its networks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from retouch.editing.manifest import ArchiveError
from retouch.incremental import Incremental


def identity(net: Incremental, hashes: Sequence[int]) -> dict[str, Any]:
    """What a recording depends on: the program, the hashes of the weights, the policy, the backend."""
    return {
        "program": net.digest,
        "weights": hashlib.blake2b(repr(list(hashes)).encode(), digest_size=16).hexdigest(),
        "policy": asdict(net.policy),
        "backend": net.backend.name,
    }


_DIFFERENT = {
    "program": "another network, or one made of it by other versions of Retouch, PyTorch or diffusers",
    "weights": "other weights",
    "policy": "another policy",
    "backend": 'the backend "{saved}", not "{found}": name that one, and a device that it runs on',
}


def check_identity(name: str, saved: Mapping[str, Any] | None, found: dict[str, Any]) -> None:
    """ArchiveError unless the network of that name is the one that a session was recorded with."""
    if saved is None:
        raise ArchiveError(f"the session was recorded without a network for the {name}; record it again")
    for part, meaning in _DIFFERENT.items():
        if saved[part] != found[part]:
            different = meaning.format(saved=saved[part], found=found[part])
            raise ArchiveError(f"the session was recorded with {different} (the {name}); or record it again")
