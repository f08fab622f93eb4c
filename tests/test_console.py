"""What is said to nobody does not end the work."""

import fcntl
import os
import pty
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


def test_a_note_behind_the_bar_is_shown_and_not_obeyed() -> None:
    terminal, inner = pty.openpty()
    size = struct.pack("HHHH", 24, 200, 0, 0)
    fcntl.ioctl(inner, termios.TIOCSWINSZ, size)
    environment = {**os.environ, "TERM": "xterm-256color"}
    started = subprocess.Popen([sys.executable, "-c", BAR], stderr=inner, env=environment)
    os.close(inner)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # the other side is closed
            break
    os.close(terminal)
    assert started.wait() == 0
    text = shown.decode()
    assert "la[b]el" in text
    assert "batch ␛]0;title␇␛[2J[/red] [bold]b" in text
    assert "\x1b]0;" not in text
    assert "\x1b[2J" not in text
