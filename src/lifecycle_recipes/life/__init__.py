"""A life: the recipes of a directory, in the order of their parents. No torch."""
