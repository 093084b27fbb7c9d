"""Level 1: checks of the recipe and the files it names, in a second, without torch."""
