"""A table as text that is also Markdown. No torch."""

from collections.abc import Collection, Iterable, Sequence


def aligned(columns: dict[str, list[str]], left: int = 2) -> str:
    """heading -> cells, as lines. The first `left` columns are text, aligned left; the others are numbers."""
    return table(list(columns), zip(*columns.values(), strict=True), range(left))


def table(head: list[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0, 1)) -> str:
    """left: the columns of text; those of numbers are aligned right."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, ["-" * width for width in widths], *rows]:
        cells = [
            c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
