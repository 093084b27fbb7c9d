"""Export from the trained model to checked directories, in the order in which it happens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evals.measure import measure
from ..evals.rubric import read_prompts
from ..finding import Finding, Refusal
from ..models.adapters import is_adapter
from ..models.load import load_tokenizer
from ..record.model_files import hash_model_files
from ..record.parents import WEIGHTS, hash_weights
from ..record.trained_stage import stage_of
from .calibrated import write_calibrated
from .calibration_rows import calibration_ids
from .combine import combine_adapters
from .config import CALIBRATED, MERGED, ExportConfig, ExportedModel, PruneConfig
from .gguf_writing import write_gguf
from .merge import load_trained, merged
from .parity import Reading, find_parity, fitting, read, require_parity
from .pruned_figures import measure_pruned
from .pruning import write_pruned
from .quantise import write_quantised
from .recovery import measure_forms, require_recovery
from .source import Source, find_in_forms, find_source

if TYPE_CHECKING:
    from ..evals.config import EvaluateConfig
    from ..record.run import Run

WORK = ".unfinished"
ADAPTERS = ".adapters"  # the combined adapter, until it is merged
# What is continued where the recipe names no prompts.
PROMPTS = ["The", "In the beginning", "Question: What is this?", "1, 2, 3,", "def main():", "Dear all,"]


def export(
    model: ExportedModel,
    config: ExportConfig,
    prune: PruneConfig | None,
    evaluate: EvaluateConfig | None,
    run: Run,
) -> None:
    """Merge, write every form and pruned copy, compare all with the trained model, measure.

    Raises Refusal: what the check does not see, of a model on the Hub or a file that it waited for; export-differs,
    export-unloadable, recovery-low, with status 1, after the record has the figures.
    """
    directory, source = Path(config.output_dir), find_source(model)
    require_forms(source, config, prune, evaluate)
    rows = calibration_ids(source.path, config, source.revision) if config.calibration else []
    if rows:
        tokens = sum(map(len, rows))
        run.note(calibration={"rows": len(rows), "asked": config.calibration_rows, "tokens": tokens})
    prompts = (
        [row["prompt"] for row in read_prompts(config.prompts, config.limit)] if config.prompts else PROMPTS
    )
    work = directory / WORK
    shutil.rmtree(work, ignore_errors=True)  # of an attempt that was killed
    if model.adapters:
        say(f"combining {len(model.shares())} adapters")
        source = combine_adapters(source, model, directory / ADAPTERS, config.seed)
    say(f"reading {model.model_name_or_path} on {len(prompts)} prompts")
    trained = load_trained(source)
    prompts = fitting(trained, prompts, config.max_new_tokens)
    expected = read(trained, prompts, source.is_reward, config.max_new_tokens)
    say(f"writing {MERGED}")
    generation = None if source.is_reward else trained.model.generation_config
    del trained
    free_memory()
    dtype = write_merged(source, generation, config, directory)
    shutil.rmtree(directory / ADAPTERS, ignore_errors=True)
    free_memory()
    pruned = {form: directory / form for form in (prune.forms if prune else ())}
    forms = {form: directory / form for form in config.forms}
    for form, place in forms.items():
        say(f"writing {form}")
        write_form(config, form, place, rows)
    for form, place in pruned.items():
        say(f"writing {form}")
        with aside(place) as fresh:
            write_pruned(config.output_dir, prune, form, fresh)
    copies = forms | pruned
    say(f"comparing {', '.join([MERGED, *copies])} with the trained model, in a new process")
    parity = find_parity(expected, {MERGED: directory, **copies}, prompts, config, work)
    note(model, source, dtype, expected[0], parity, copies, directory, run)
    exact = dtype == "float32" and expected[0].dtype == "float32" and source.quantised is None
    require_parity(parity, config, exact)
    if pruned:
        say(f"timing {', '.join([MERGED, *pruned])}")
        measure_pruned({MERGED: directory} | pruned, expected[0].prompts, config.max_new_tokens, run)
    if evaluate:
        measure(config.output_dir, evaluate, run)
        if evaluate.tasks:
            measure_forms(copies, evaluate, run)
            require_recovery(forms, config, run)


def require_forms(
    source: Source, config: ExportConfig, prune: PruneConfig | None, evaluate: EvaluateConfig | None
) -> None:
    """Raises Refusal: reward-form, not-prunable, gguf-unsupported, before anything is read or written."""
    sections = [name for name, given in (("prune", prune), ("evaluate", evaluate)) if given]
    pruned = prune.forms if prune else ()
    found = find_in_forms(source.path, sections, config.forms, pruned, source.revision)
    if found:
        raise Refusal(*(Finding.error(*finding, source.path) for _, *finding in found))


def write_merged(source: Source, generation: Any, config: ExportConfig, directory: Path) -> str:
    """Save the model without adapters, with its tokenizer; returns its dtype. generation: with its stop tokens."""
    model = merged(source, config.dtype)
    if generation is not None:
        model.generation_config = generation
    model.save_pretrained(directory)
    load_tokenizer(source.path, source.revision).save_pretrained(directory)
    return str(model.dtype).removeprefix("torch.")


def write_form(config: ExportConfig, form: str, place: Path, rows: list[list[int]]) -> None:
    """Write one form of the merged model in output_dir. rows: token ids to which gptq and awq are fitted."""
    whole = config.output_dir
    with aside(place) as fresh:
        if form.startswith("gguf-"):
            write_gguf(whole, fresh, form.removeprefix("gguf-").upper())
        elif form in CALIBRATED:
            write_calibrated(whole, form, fresh, rows)
        else:
            write_quantised(whole, form, fresh)


@contextmanager
def aside(place: Path) -> Iterator[Path]:
    """A new directory that becomes `place` at the end of the block, so that a killed run leaves no half."""
    fresh = place.with_name(f"{WORK}-{place.name}")
    for left in (fresh, place):
        shutil.rmtree(left, ignore_errors=True)
    fresh.mkdir()
    yield fresh
    fresh.rename(place)


def note(
    model: ExportedModel,
    source: Source,
    dtype: str,
    expected: Reading,
    parity: dict,
    forms: dict[str, Path],
    directory: Path,
    run: Run,
) -> None:
    """Into the record: what was merged, sizes, the comparison; into the metrics what a gate may ask for."""
    places = {MERGED: directory, **forms}
    tokens = sum(map(len, expected.replies))
    run.note(
        export={
            "of": model.model_name_or_path,
            "of_stage": stage_of(model.model_name_or_path),
            "adapters_merged": is_adapter(model.model_name_or_path),
            **combination(model),
            "base": "dequantised, as in training" if source.quantised else "as saved",
            "dtype": dtype,
            "bytes": {form: size_of(place) for form, place in places.items()},
            "weights_sha256": {form: hash_weights(place) for form, place in places.items()},
            "files_sha256": {form: hash_model_files(place) for form, place in places.items()},
            "prompts": len(expected.prompts),
            "tokens": tokens,
            "parity": parity,
        }
    )
    for form, found in parity.items():
        measured = ("agreement", "same_text", "stopped", "max_difference")
        run.metrics.update({f"{form}.{name}": found[name] for name in measured if name in found})


def combination(model: ExportedModel) -> dict[str, Any]:
    """How the model was made from several, and the share of each; {} for one model."""
    if not (shares := model.shares()):
        return {}
    return {"combined": {"by": "average" if model.average else model.combination_type, "weights": shares}}


def free_memory() -> None:
    """Give the memory of a model that is no longer used back: the new process needs it."""
    import gc

    import torch

    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()


def size_of(directory: Path) -> int:
    """Bytes of the weights in a directory, not below it."""
    return sum(file.stat().st_size for pattern in WEIGHTS for file in directory.glob(pattern))


def say(line: str) -> None:
    print(line, flush=True)
