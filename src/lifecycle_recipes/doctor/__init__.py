"""Checks before a run (recipe, rows, tokens, built trainer): each returns Findings. No torch on import."""
