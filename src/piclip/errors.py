"""The errors that people see: one sentence that says what is wrong and what to do."""

from __future__ import annotations


class PiclipError(Exception):
    """Base of every error piclip raises on purpose.

    The message is for a person: what is wrong and what to do about it, in one sentence. The
    command line prints it without a traceback and leaves with ``exit_code``.
    """

    exit_code = 1


class UsageError(PiclipError, ValueError):
    """The request itself cannot be carried out as asked (an argument, an option, a name)."""

    exit_code = 2


class ImageError(PiclipError):
    """An image file cannot be read, or is larger than the limit."""


class MaskError(PiclipError):
    """A mask is empty, damaged, of the wrong size or kind, or holds unknown values."""


class DatasetError(PiclipError):
    """A dataset is incomplete, or its files contradict each other or the benchmark's rules."""


class ModelError(PiclipError):
    """A model cannot be found, downloaded, read or converted."""


class OutputError(PiclipError):
    """A result cannot be written (full or read-only disk)."""
