"""`python -m lifecycle_recipes`: the command `lifecycle`."""

from .cli import main

main()
