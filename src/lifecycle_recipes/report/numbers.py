"""Numbers as the log lines, the end of a run and the card write them. No torch."""


def amount(value: float) -> str:
    """`900`, `12.3 k`, `1.5 M`, `8.0 G`: of parameters or bytes. A unit may follow at once: `1.5 MB`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} "


def clock(seconds: float) -> str:
    """`4:10`, or `1:04:10` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def number(value: float | str | None, form: str) -> str:
    """`-` for a value that was not measured; a value that is text (`nan`) is unchanged."""
    if value is None:
        return "-"
    return format(value, form) if isinstance(value, int | float) else str(value)
