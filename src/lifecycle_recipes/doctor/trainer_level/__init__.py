"""Level 3: checks that need the built trainer."""
