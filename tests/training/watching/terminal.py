"""A real terminal for a process to write to, and what it wrote there."""

import fcntl
import os
import re
import struct
import subprocess
import termios
from collections.abc import Sequence

LINES = 24


def run_on_terminal(command: Sequence[str], columns: int, *, stdout_too: bool = False, **env: str) -> tuple[str, str]:
    """Run a command with a terminal of 24 lines as stderr; return its stdout, and all that the terminal was sent."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}  # of pytest's
    settings = inherited | {"TERM": "xterm-256color", "PYTHONUTF8": "1"} | env
    stdout = theirs if stdout_too else subprocess.PIPE
    process = subprocess.Popen(command, stdout=stdout, stderr=theirs, env=settings, text=True)
    os.close(theirs)
    sent = b""
    try:
        while part := os.read(ours, 65536):
            sent += part
    except OSError:  # how Linux says that the other side has closed
        pass
    os.close(ours)
    return process.communicate(timeout=60)[0], sent.decode()


def lines_of(sent: str) -> list[str]:
    """Return the lines that a terminal was sent, one after the other, without its codes and without empty ones."""
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", sent)) if line.strip()]
