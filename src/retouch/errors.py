"""The base of all errors that are the caller's, and warnings: of something slower, and of something made otherwise."""


class RetouchError(Exception):
    """Base of every error that is the caller's: its text says what is wrong and what to do."""


class OptionError(RetouchError, ValueError):
    """An argument or option that cannot be used."""


class ReplayWarning(UserWarning):
    """Says that a version was made again with other bytes than at first, and what is kept."""


class FallbackWarning(UserWarning):
    """Says what could not be used, why, what to do about it, and what is done instead."""
