"""What a run of a recipe would do, in one line: known without torch and without a trainer."""

from ..layouts.launch import UNLAUNCHED
from ..layouts.layout import Layout
from ..recipe.read import RawRecipe
from ..record.parents import named_parents


def describe(raw: RawRecipe) -> str:
    """Stage, parents, output_dir, rows, length, batch and layout, as far as they are known.

    `sft of runs/03-pretrain -> runs/04-sft; 8,000 rows, 399 held out; 2 epochs, 16 rows a step; layout zero3`
    """
    parents = f" of {', '.join(start_of(raw))}" if start_of(raw) else ""
    rows = [
        f"{raw.rows[use]} {word}"
        for use, word in (("train", "rows"), ("eval", "held out"))
        if use in raw.rows
    ]
    layout = [f"layout {in_words(raw.layout)}"] if raw.layout and raw.stage not in UNLAUNCHED else []
    parts = [f"{raw.stage}{parents} -> {raw.output_dir}", ", ".join(rows), _length(raw), *layout]
    return "; ".join(filter(None, parts))


def start_of(raw: RawRecipe) -> list[str]:
    """Paths and Hub ids that the run starts from, each once; not those that it is only compared with."""
    named = named_parents(raw.values)
    roles = ("model", "tokenizer", "data", "reward", "value", "extended", "resized")
    siblings = [path for role, path in named.items() if role.startswith("sibling")]
    return list(dict.fromkeys([*(named[role] for role in roles if role in named), *siblings]))


def in_words(layout: Layout) -> str:
    """`zero3 on 8 processes`"""
    return layout.name + (f" on {layout.processes} processes" if layout.processes > 1 else "")


def _length(raw: RawRecipe) -> str:
    """How long the run trains: `500 steps, 16 rows a step`; empty for a stage that does not train."""
    if "train" not in raw.values:
        return ""
    steps, episodes = raw.setting("train.max_steps"), raw.setting("train.total_episodes")
    epochs = raw.setting("train.num_train_epochs")
    length = f"{epochs:g} epoch{'s' * (epochs != 1)}" if epochs else ""
    if steps and steps > 0:
        length = f"{steps:,} step{'s' * (steps != 1)}"
    elif episodes:
        length = f"{episodes:,} episodes"
    batch = raw.values.get("global_batch_size")
    return ", ".join(filter(None, [length, f"{batch} rows a step" if batch else ""]))
