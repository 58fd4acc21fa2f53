"""Errors that a person reads: one clear sentence that says what, where and how to fix it."""

from __future__ import annotations


class JuntoError(Exception):
    """Work failed although the request was right. Exit code 1."""

    exit_code = 1


class UsageError(JuntoError):
    """What was asked for is wrong: a key, a row, a file, a question. Exit code 2."""

    exit_code = 2


class SetupError(JuntoError):
    """The machine or the run directory does not fit: a package, the base model, the disk. Exit code 3."""

    exit_code = 3
