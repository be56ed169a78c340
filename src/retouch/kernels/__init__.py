"""Kernels by backend. `backend(name)` gives the table of one; see `retouch.kernels.table`."""

from retouch.kernels.table import Backend, available, backend

__all__ = ["Backend", "available", "backend"]
