"""The warning that something slower is done, as what was wanted cannot be."""


class FallbackWarning(UserWarning):
    """Says what could not be used, why, what to do about it, and what is done instead."""
