"""Where the files are that come with the package: recipes, layouts, chat templates, data. No torch.

In the source tree they are folders at the top, where people look for them; `bundled/` beside this file has symbolic
links to these. A wheel cannot contain links: pyproject.toml lists the files, and they are copied into `bundled/`. So
a clone, an editable install and a wheel are read in the same way.
"""

from pathlib import Path

BUNDLED = Path(__file__).parent / "bundled"
