"""Kernels by backend. `backend(name, device)` gives the table of one; see `retouch.kernels.registry`."""

from retouch.kernels.protocol import Backend, BackendError
from retouch.kernels.registry import available, backend, described, warn_of_lacking

__all__ = ["Backend", "BackendError", "available", "backend", "described", "warn_of_lacking"]
