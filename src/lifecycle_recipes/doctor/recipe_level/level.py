"""Level 1: all checks of a recipe and the files it names that take at most a second. No torch."""

import errno

from ...finding import Finding
from ...recipe.read import RawRecipe
from .architecture import find_in_architecture
from .files import find_in_files
from .gate_lines import find_in_gate
from .global_batch import find_in_global_batch
from .hub import find_in_hub
from .layout_launch import find_in_launch
from .machine import find_in_machine
from .output import find_in_output
from .paths import find_bad_paths
from .precision import find_in_precision
from .settings import find_in_settings
from .waivers import find_in_waivers


def find_in_recipe(raw: RawRecipe) -> list[Finding]:
    """Findings about the recipe's values, its files, the machine, the Hub's cache and output_dir."""
    if bad := find_bad_paths(raw):
        return bad  # no other check could look up files
    parts = (find_in_waivers, find_in_settings, find_in_global_batch, find_in_files, find_in_hub)
    parts += (
        find_in_architecture,
        _find_in_own_section,
        find_in_machine,
        find_in_launch,
        find_in_precision,
        find_in_output,
        find_in_gate,
    )
    try:
        return [finding for part in parts for finding in part(raw)]
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        message = f"this file name is too long: {str(error.filename)[:60]}..."
        return [Finding.error("bad-value", message, "correct the path", raw.path)]


def _find_in_own_section(raw: RawRecipe) -> list[Finding]:
    """The steps of curation, and the forms of an export, are imported for their own recipes only."""
    if raw.stage == "curate":
        from .curation import find_in_curation

        return find_in_curation(raw)
    if raw.stage == "export":
        from .export import find_in_export

        return find_in_export(raw)
    return []
