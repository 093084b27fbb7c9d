"""An inspection as one HTML file: no script, no external resources, all text escaped."""

from html import escape

from .summary import PACKING
from .token_text import STATES, Piece, visible

LEGEND = STATES | {"special": "control token"}
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
h1 { font-size: 1.3rem; overflow-wrap: anywhere; } h2 { font-size: 1rem; margin: 2rem 0 .3rem; }
h2 small, .facts { font-weight: normal; opacity: .75; font-size: .85rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; } th { text-align: left; vertical-align: top;
  padding: .1rem 1.5rem .1rem 0; }
td { padding: .1rem 0; overflow-wrap: anywhere; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
pre { font: 13px/1.7 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  margin: .2rem 0; }
span { border-radius: 2px; } pre span:hover { outline: 1px solid; }
.trained { background: #2e9e4a44; } .masked { opacity: .6; } .scored { background: #2e9e4abb; }
.cut { background: #d43b3b33; text-decoration: line-through; }
.special { outline: 1px solid #8888; font-weight: bold; } 
.opens { border-top: 2px solid #3b7dd4; display: block; }
"""


def page(inspection) -> str:
    """The page, as a string."""
    title = f"{inspection.path} ({inspection.stage})"
    summary = "".join(
        f"<tr><th>{escape(name)}</th><td>{cell(name, lines)}</td></tr>\n"
        for name, lines in inspection.summary
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n<table>\n{summary}</table>\n"
        + (legend() if inspection.rows else "")
        + "".join(map(section, inspection.rows))
        + "</body></html>\n"
    )


def cell(name: str, lines: list[str]) -> str:
    """Lines of the summary; those of a table keep their columns."""
    if name == PACKING:
        return "<pre>" + escape("\n".join(lines)) + "</pre>"
    return "<br>".join(map(escape, lines))


def legend() -> str:
    shown = " ".join(f'<span class="{name}">{escape(words)}</span>' for name, words in LEGEND.items())
    return f"<p>{shown}; point at a token for its position and id</p>\n"


def section(row) -> str:
    """One row: its sequences next to each other."""
    note = f", {row.note}" if row.note else ""
    parts = "".join(
        f'<div><div class="facts">{escape(part.title)} {escape(part.facts)}</div>'
        f"<pre>{tokens(part.pieces)}</pre></div>\n"
        for part in row.parts
    )
    where = escape(row.where)
    stored = "".join(
        f'<div class="facts">{escape(title)}: {escape(visible(text))}</div>\n' for title, text in row.stored
    )
    title = escape(row.title + note)
    return f'<h2>{title} <small>{where}</small></h2>\n{stored}<div class="row">{parts}</div>\n'


def tokens(pieces: list[Piece]) -> str:
    found, place = [], 0
    for piece in pieces:
        if piece.opens:
            found.append('<span class="opens"></span>')
        names = piece.state + " special" * piece.special
        ids = ", ".join(map(str, piece.ids))
        title = f"{place}: id {ids}, {STATES[piece.state]}"
        found.append(f'<span class="{names}" title="{escape(title)}">{escape(visible(piece.text))}</span>')
        place += len(piece.ids)
    return "".join(found)
