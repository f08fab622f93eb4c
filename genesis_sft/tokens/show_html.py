"""Conversations as tokens on one HTML page: trained tokens in colour, control tokens as badges, ids on pointing.

The page needs nothing else: no script, no font, no picture. All text passes through ``_safe``; the only markup is
written here.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from genesis_sft.console import visible
from genesis_sft.run_dir import write_text
from genesis_sft.tokens.chatml import ChatMLEncoder
from genesis_sft.tokens.own_file import PAGE_HEAD, require_own_or_none
from genesis_sft.tokens.show import Shown, runs

_MOST_TOKENS_OF_A_CHARACTER = 8  # four bytes at most; some tokenizers put a space in front as a token of its own
_HALF_A_CHARACTER = "\N{REPLACEMENT CHARACTER}"
_CLASSES = {  # whether a control token, whether trained
    (False, False): "",
    (False, True): ' class="trained"',
    (True, False): ' class="control"',
    (True, True): ' class="control trained"',
}

_HEAD = """<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Conversations as tokens</title>
<style>
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1d2126; --soft: #5d6671; --line: #dfe3e8; --trained: #dcefe3; --trained-ink: #12492d;
  --badge: #e7ebf0; --badge-ink: #3c454f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e2e6ea; --soft: #98a2ad; --line: #2c323a; --trained: #17382a; --trained-ink: #a9e2c2;
    --badge: #2a3038; --badge-ink: #b9c2cc;
  }
}
body {
  margin: 0 auto; padding: 2.5rem 1.5rem 4rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
h1 { font-size: 1.6rem; }
h2 { margin: 2.5rem 0 .4rem; font-size: 1rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
pre {
  margin: 0; padding: 1rem; border: 1px solid var(--line); border-radius: .4rem; color: var(--soft);
  white-space: pre-wrap; overflow-wrap: anywhere;
  font: .85rem/1.7 ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "Liberation Mono", monospace;
}
.trained { background: var(--trained); color: var(--trained-ink); }
.control { padding: 0 .3em; border-radius: .3em; background: var(--badge); color: var(--badge-ink); font-size: .9em; }
.control.trained { background: var(--trained); color: var(--trained-ink); outline: 1px solid var(--trained-ink); }
pre span:hover { outline: 1px solid currentColor; }
</style>
</head>
<body>
<h1>Conversations as tokens</h1>
<p><span class="trained">Trained</span> tokens are coloured, all others are context.
<span class="control">Control tokens</span> stand in a frame. Point at a token for its id.</p>
"""


def write_page(path: Path, examples: Iterable[Shown], encoder: ChatMLEncoder) -> None:
    """Write conversations to a page; the file is whole or not there.

    Args:
        path: The page.
        examples: The conversations.
        encoder: Knows the tokens.

    Raises:
        InputError: A file lies there that is no such page.
    """
    require_own_or_none(path)
    write_text(path, PAGE_HEAD + _HEAD + "".join(_section(one, encoder) for one in examples) + "</body>\n</html>\n")


def _section(one: Shown, encoder: ChatMLEncoder) -> str:
    spans = []
    after_control = False
    for kind, is_trained, ids in runs(one.encoded, encoder):
        css = _CLASSES[kind == "control", is_trained]
        for part, text in pieces(ids, encoder, after_control=after_control):
            title = " ".join(map(str, part))
            spans.append(f'<span{css} title="{title}">{_safe(text)}</span>')
        after_control = kind == "control"
    return f'<h2>{_safe(one.title)}</h2>\n<pre dir="auto">{"".join(spans)}</pre>\n'


def pieces(
    ids: Sequence[int], encoder: ChatMLEncoder, *, after_control: bool = False
) -> Iterator[tuple[Sequence[int], str]]:
    """Yield (ids, text) token by token; tokens that hold part of a character each come together.

    Args:
        ids: Neighbouring ids, control tokens alone.
        encoder: Knows the tokens.
        after_control: Whether they stand right after a control token.
    """
    start = 0
    while start < len(ids):
        first = after_control and start == 0
        stop = start + 1
        text = encoder.text.decode(ids[start:stop], after_control=first, show_special=True)
        while text.endswith(_HALF_A_CHARACTER) and stop < min(len(ids), start + _MOST_TOKENS_OF_A_CHARACTER):
            stop += 1
            text = encoder.text.decode(ids[start:stop], after_control=first, show_special=True)
        yield ids[start:stop], text
        start = stop


def _safe(text: str) -> str:
    return html.escape(visible(text), quote=True)
