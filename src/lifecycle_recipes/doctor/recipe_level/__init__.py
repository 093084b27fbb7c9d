"""Level 1: the recipe and the files it names, in a second, without torch."""
