"""`python -m lifecycle_recipes.launch` of older job scripts; to go with the next release."""

import sys

from .layouts.launch import main

if __name__ == "__main__":
    print("lifecycle_recipes.launch is now lifecycle_recipes.layouts.launch", file=sys.stderr)
    main()
