"""Kernels by backend. `backend(name, device)` gives the table of one; see `retouch.kernels.registry`."""

from retouch.kernels.registry import Backend, BackendError, available, backend, described

__all__ = ["Backend", "BackendError", "available", "backend", "described"]
