"""Kernels by backend. `backend(name, device)` gives the table of one; see `retouch.kernels.table`."""

from retouch.kernels.table import Backend, BackendError, available, backend, described

__all__ = ["Backend", "BackendError", "available", "backend", "described"]
