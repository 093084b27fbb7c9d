"""A recipe file -> the dataclasses of its stage. No torch."""
