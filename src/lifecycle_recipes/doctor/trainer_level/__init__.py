"""Level 3: what only the built trainer shows."""
