"""A table as text that is also Markdown. No torch."""


def aligned(columns: dict[str, list[str]], left: int = 2) -> str:
    """heading -> cells, as lines. The first `left` columns are text, aligned left; the others are numbers."""
    widths = [max(len(cell) for cell in (head, *cells)) for head, cells in columns.items()]
    rows = [list(columns), ["-" * width for width in widths], *zip(*columns.values(), strict=True)]
    return "\n".join(_line(row, widths, left) for row in rows)


def _line(cells: list[str], widths: list[int], left: int) -> str:
    sides = [str.ljust if i < left else str.rjust for i in range(len(widths))]
    padded = [side(cell, width) for side, cell, width in zip(sides, cells, widths, strict=True)]
    return "| " + " | ".join(padded) + " |"
