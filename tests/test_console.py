"""What is said to nobody does not end the work."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

PROGRAM = """
from genesis_sft.console import say
for number in range(3):
    say(f"line {number}")
print("done")
"""


def test_the_work_goes_on_where_nobody_reads_its_messages() -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as `2>&1 | head` does
    try:
        done = subprocess.run([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=writing, timeout=60)
    finally:
        os.close(writing)
    assert (done.returncode, done.stdout) == (0, b"done\n")


BAR = """
from genesis_sft.console import progress
with progress("la[b]el", 2, "steps") as bar:
    bar.advance(1, note="batch \\x1b]0;title\\x07\\x1b[2J[/red] [bold]b")
"""


def on_a_terminal(program: str, columns: int) -> str:
    """Return what a program writes to a terminal of so many columns."""
    terminal, inner = pty.openpty()
    size = struct.pack("HHHH", 24, columns, 0, 0)
    fcntl.ioctl(inner, termios.TIOCSWINSZ, size)
    environment = {**os.environ, "TERM": "xterm-256color"}
    started = subprocess.Popen([sys.executable, "-c", program], stderr=inner, env=environment)
    os.close(inner)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
    os.close(terminal)
    assert started.wait() == 0
    return shown.decode()


def test_a_note_below_the_bar_is_shown_and_not_obeyed() -> None:
    text = on_a_terminal(BAR, 200)
    assert "la[b]el" in text
    assert "batch ␛]0;title␇␛[2J[/red] [bold]b" in text
    assert "\x1b]0;" not in text
    assert "\x1b[2J" not in text


NOTE = "1,234 requests (9.9/s), 300 finished (280 kept, 20 rejected of those screened so far), $1.23 of $250.00"
NARROW = f"""
from genesis_sft.console import progress
with progress("writing", 10_000, "conversations") as bar:
    bar.advance(1234, note={NOTE!r})
"""


def test_nothing_of_bar_and_note_is_left_out_on_a_narrow_terminal() -> None:
    text = " ".join(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", " ", on_a_terminal(NARROW, 80)).split())
    for part in ("writing", "1234/10000", "conversations", "ETA", NOTE):
        assert part in text
    assert "…" not in text
