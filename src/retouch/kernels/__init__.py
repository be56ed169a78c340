"""Kernels by backend. `backend(name, device)` gives the table of one; see `retouch.kernels.table`."""

from retouch.kernels.table import Backend, available, backend, described

__all__ = ["Backend", "available", "backend", "described"]
