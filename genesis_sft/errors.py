"""The exceptions that reach a user, and the exit status each one ends the program with.

    GenesisError
    ├── InputError          2  what was given cannot be used
    │   ├── RecipeError         a recipe: unknown key, wrong type, impossible combination
    │   ├── DataError           a row or file of conversations
    │   ├── ModelError          a model folder, checkpoint or tokenizer
    │   ├── AssetError          a file that has to be fetched: no network, wrong hash
    │   └── RunDirError         a run folder: in use, not writable, of another recipe
    ├── CheckFailed         1  the answer is no: a model was refused, a gate did not pass
    └── Stopped            75  asked to stop, and has saved: the same command goes on (EX_TEMPFAIL of sysexits.h)

A message says what was expected and what was found; ``hint`` says what to do about it.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_NO = 1
EXIT_BAD_INPUT = 2
EXIT_TRY_AGAIN = 75
EXIT_INTERRUPTED = 130


class GenesisError(Exception):
    """Base of all errors that are shown to a user without a traceback.

    Args:
        message: What was expected and what was found.
        hint: What to do now, as one sentence; shown on a line of its own.
    """

    exit_status = EXIT_BAD_INPUT

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class InputError(GenesisError):
    """What the user gave cannot be used as it is."""


class RecipeError(InputError):
    """A recipe is wrong: unknown key, wrong type, impossible combination."""


class DataError(InputError):
    """A file or row of conversations is wrong."""


class ModelError(InputError):
    """A model folder, checkpoint or tokenizer is missing something or contradicts itself."""


class AssetError(InputError):
    """A file that has to be fetched is out of reach, or is not the file that was pinned."""


class RunDirError(InputError):
    """A run folder cannot be used: another process works in it, or it cannot be written."""


class CheckFailed(GenesisError):
    """A check was made and the answer is no."""

    exit_status = EXIT_NO


class Stopped(GenesisError):
    """Work was asked to stop and has saved what it did; a scheduler may start the same command again."""

    exit_status = EXIT_TRY_AGAIN

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="The same command goes on from there.")
