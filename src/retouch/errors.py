"""The base of all errors that are the caller's, and the warning that something slower is done instead."""


class RetouchError(Exception):
    """Base of every error that is the caller's: its text says what is wrong and what to do."""


class FallbackWarning(UserWarning):
    """Says what could not be used, why, what to do about it, and what is done instead."""
