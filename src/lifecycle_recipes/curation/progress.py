"""What a long step of curation shows: a bar on a terminal, a line per minute in a log. No torch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

SHOWN_AFTER, LINE_EVERY = 2.0, 60.0  # seconds


@contextmanager
def progress(what: str, total: int | None, unit: str = " documents") -> Iterator[tqdm]:
    """A bar with rate and time left for what takes longer than SHOWN_AFTER, removed at the end.

    Without a terminal, a line every LINE_EVERY seconds.
    """
    from tqdm import tqdm

    settings = {"total": total, "desc": what, "unit": unit, "leave": False}
    if sys.stderr.isatty():
        settings |= {"delay": SHOWN_AFTER}
    else:
        settings |= {"delay": LINE_EVERY, "mininterval": LINE_EVERY, "maxinterval": LINE_EVERY, "ncols": 0}
        settings |= {"file": _Lines(sys.stderr)}
    with tqdm(**settings) as bar:
        yield bar


class _Lines:
    """Lines of text where tqdm returns to the start of its own."""

    def __init__(self, log: TextIO):
        self.log = log

    def write(self, text: str) -> None:
        if line := text.strip():
            self.log.write(line + "\n")

    def flush(self) -> None:
        self.log.flush()
