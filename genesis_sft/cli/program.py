"""The command line as a program: every error a user can cause ends in a message and an exit status.

Exit status: 0 done, 1 the answer is no, 2 bad input, 75 stopped on request and saved, 130 interrupted.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from typing import Any

import typer

from genesis_sft.cli.commands import app
from genesis_sft.console import visible
from genesis_sft.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, GenesisError


def main() -> None:
    """Run the command line; every error a user can cause ends in a message and an exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that knows few characters gets codes of others
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = app(standalone_mode=False, prog_name="genesis-sft") or 0
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where it is noticed that the reader has gone
        sys.exit(status)
    except GenesisError as error:
        _complain(str(error), error.hint)
        sys.exit(error.exit_status)
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:  # typer turns Ctrl-C into this
            _complain_of_interruption()
        if isinstance(stop.__context__, BrokenPipeError):  # and a reader that has gone into exit status 1
            _drop_output()
            sys.exit(0)
        raise
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _complain_of_interruption()
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, e.g. `| head`
        _drop_output()
        sys.exit(0)
    except OSError as error:
        _complain(f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""), None)
        sys.exit(EXIT_BAD_INPUT)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            _complain(error.format_message(), _help_of(sys.argv[1:]))
            sys.exit(EXIT_BAD_INPUT)
        raise


def _help_of(words: list[str]) -> str:
    """Name the help of the command that the words of a command line lead to."""
    command: Any = typer.main.get_command(app)
    path = ["genesis-sft"]
    for word in words:
        command = getattr(command, "commands", {}).get(word)
        if command is None or command.hidden:  # the help of a hidden one stands in its group's
            break
        path.append(word)
    return f"`{' '.join(path)} --help` lists what can be given."


def _complain(message: str, hint: str | None) -> None:
    print(f"error: {visible(message)}", file=sys.stderr)  # names in hostile files stand in messages
    if hint:
        print(f"hint: {visible(hint)}", file=sys.stderr)


def _complain_of_interruption() -> None:
    commands = (["run"], ["train"], ["export"], ["synthesize"])
    resumes = sys.argv[1:2] in commands and sys.argv[2:3] not in (["watch"], ["status"])
    _complain("interrupted", "The same command goes on where it stopped." if resumes else None)


def _interrupt(number: int, frame: object) -> None:
    """Take a request to end as Ctrl-C is taken: what is half-written goes, and child processes with it."""
    raise KeyboardInterrupt


def _drop_output() -> None:
    """Send what is still to be written nowhere, so that the interpreter does not stumble over it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
