"""What `lifecycle inspect` shows of a recipe, in parts."""

from lifecycle_recipes.doctor.trainer_level.trial_build import built_trainer
from lifecycle_recipes.inspection.inspect import look


def seen(path, overrides=(), rows=3):
    """(Inspection, trainer) of a recipe; the trainer's datasets stay usable."""
    with built_trainer(path, list(overrides)) as (recipe, trainer):
        return look(path, recipe, trainer, rows), trainer


def summary(inspection) -> dict[str, str]:
    return {name: "\n".join(lines) for name, lines in inspection.summary}


def ids_in(part, *states) -> list[int]:
    return [i for piece in part.pieces for i in piece.ids if piece.state in states]
