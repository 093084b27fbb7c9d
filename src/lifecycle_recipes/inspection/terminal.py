"""An inspection for the terminal: with colours, or with brackets if colours are off."""

import shutil
import sys
import unicodedata
from collections.abc import Iterable

from .token_text import STATES, Piece, visible

# SGR codes. Bold marks control tokens in any state.
COLOURS = {"trained": "32", "masked": "90", "cut": "9;31", "scored": "30;42", "special": "1", "opens": "36"}
BRACKETS = {"trained": "⟦⟧", "cut": "⟨⟩", "scored": "⟦⟧"}
ASCII_BRACKETS = {"trained": ("[[", "]]"), "cut": ("((", "))"), "scored": ("[[", "]]")}
NARROW = 100  # with fewer columns, rejected is shown below chosen

Cell = tuple[str, str]  # a character and its SGR codes


def text(inspection, colours: bool, width: int | None = None) -> str:
    """The complete text. width: in columns (default: the terminal's)."""
    width = width or shutil.get_terminal_size((100, 24)).columns
    paint = Paint(colours)
    lines = [f"{inspection.path}  ({inspection.stage})", ""]
    indent = max(len(name) for name, _ in inspection.summary) + 2
    for name, found in inspection.summary:
        for number, line in enumerate(found):
            lines.append(f"{name if not number else '':<{indent}}{visible(line)}")
    if inspection.rows:
        lines += ["", paint.legend(inspection.rows)]
    for row in inspection.rows:
        lines += ["", *row_lines(row, paint, width)]
    return "\n".join(lines)


class Paint:
    """Styles of pieces: SGR codes, or brackets around supervised and truncated tokens."""

    def __init__(self, colours: bool, encoding: str | None = None):
        self.colours = colours
        self.brackets = {state: tuple(pair) for state, pair in BRACKETS.items()}
        try:
            "".join(BRACKETS.values()).encode(encoding or sys.stdout.encoding or "utf-8")
        except UnicodeEncodeError:
            self.brackets = ASCII_BRACKETS

    def legend(self, rows) -> str:
        states = {piece.state for row in rows for part in row.parts for piece in part.pieces}
        shown = [self.line(self.around(STATES[s], s)) for s in STATES if s in states]
        return "tokens:  " + "  ".join(shown)

    def around(self, text: str, state: str) -> list[Cell]:
        if self.colours:
            return [(c, COLOURS[state]) for c in text]
        left, right = self.brackets.get(state, ("", ""))
        return [(c, "") for c in f"{left}{text}{right}"]

    def cells(self, pieces: Iterable[Piece]) -> list[Cell]:
        """Characters of the pieces. Without colours, each run of one state is in brackets."""
        found, before = [], "masked"
        for piece in [*pieces, None]:
            state = piece.state if piece else "masked"
            opens = bool(piece and piece.opens)
            if not self.colours and (state != before or opens):
                found += [(c, "") for c in self.brackets.get(before, ("", ""))[1]]
            if opens:
                gap = "" if found and found[-1][0] == "\n" else "\n"
                found += [(c, COLOURS["opens"]) for c in gap + "--- document ---\n"]
            if not self.colours and (state != before or opens):
                found += [(c, "") for c in self.brackets.get(state, ("", ""))[0]]
            if piece:
                style = COLOURS[state] + (";" + COLOURS["special"] if piece.special else "")
                found += [(c, style) for c in visible(piece.text)]
            before = state
        return found

    def line(self, cells: list[Cell]) -> str:
        """Cells of one line as a string, with one escape sequence per change of style."""
        if not self.colours:
            return "".join(c for c, _ in cells)
        out, style = [], ""
        for character, wanted in cells:
            if wanted != style:
                out.append("\x1b[0m" * bool(style) + (f"\x1b[{wanted}m" if wanted else ""))
                style = wanted
            out.append(character)
        return "".join(out) + "\x1b[0m" * bool(style)


def row_lines(row, paint: Paint, width: int) -> list[str]:
    """A row: its title and its sequences; of a pair, the common prompt once and the replies side by side."""
    note = f"  {row.note}" if row.note else ""
    lines = [f"=== {row.title}{note}  ({visible(row.where)})"]
    lines += [f"{title + ':':<9}{visible(text)}" for title, text in row.stored]
    if [part.title for part in row.parts] == ["chosen", "rejected"]:
        return lines + pair_lines(row.parts, paint, width)
    for part in row.parts:
        lines.append(f"{part.title + ': ' if part.title else ''}{part.facts}")
        lines += [paint.line(cells) for cells in wrap(paint.cells(part.pieces), width)]
    return lines


def pair_lines(parts, paint: Paint, width: int) -> list[str]:
    chosen, rejected = parts
    shared = common_prompt(chosen.pieces, rejected.pieces)
    lines = [paint.line(cells) for cells in wrap(paint.cells(chosen.pieces[:shared]), width)]
    replies = [part.pieces[shared:] for part in parts]
    if width < NARROW:
        for part, reply in zip(parts, replies, strict=True):
            lines.append(f"-- {part.title}: {part.facts}")
            lines += [paint.line(cells) for cells in wrap(paint.cells(reply), width)]
        return lines
    column = (width - 3) // 2
    left, right = (
        [[(c, "") for c in f"{part.title}: {part.facts}"[:column]], *wrap(paint.cells(reply), column)]
        for part, reply in zip(parts, replies, strict=True)
    )
    for number in range(max(len(left), len(right))):
        a, b = (side[number] if number < len(side) else [] for side in (left, right))
        lines.append(paint.line(a) + " " * (column - sum(wide(c) for c, _ in a)) + " | " + paint.line(b))
    return [line.rstrip(" ") for line in lines]


def common_prompt(a: list[Piece], b: list[Piece]) -> int:
    """Number of pieces that both share before the first supervised or scored one."""
    for number, (one, other) in enumerate(zip(a, b, strict=False)):
        if one != other or one.state != "masked":
            return number
    return min(len(a), len(b))


def wrap(cells: list[Cell], width: int) -> list[list[Cell]]:
    """Lines of at most `width` columns. They break anywhere: breaking at spaces would alter the tokens."""
    lines, used = [[]], 0
    for character, style in cells:
        if character == "\n":
            lines.append([])
            used = 0
            continue
        if used + wide(character) > width:
            lines.append([])
            used = 0
        lines[-1].append((character, style))
        used += wide(character)
    return lines if lines[-1] else lines[:-1]


def wide(character: str) -> int:
    """Number of columns of a character."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
