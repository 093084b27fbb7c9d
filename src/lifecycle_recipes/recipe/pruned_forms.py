"""The names of the pruned copies of an export, which are also their directories and the start of their metrics."""

TWO_OF_FOUR = "pruned-2of4"


def pruned_forms(levels: list[float], two_of_four: bool) -> dict[str, float | None]:
    """Name -> the share of weights that become zero, such as pruned-50 -> 0.5; pruned-2of4 -> None."""
    return {f"pruned-{level * 100:g}": level for level in levels} | (
        {TWO_OF_FOUR: None} if two_of_four else {}
    )
