"""Curation from the sources to the output files, in the order in which it happens. No torch, unless a step needs it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..data.cache import cache_directory
from ..finding import GATE_FAILED, Finding, Refusal
from ..record.file import EDITS, HELD_OUT, LEDGER_FILE, LEFT_OUT, TRAIN, write_json
from ..record.full_disk import name_full_disk
from ..record.gate import judge_line, parse
from ..record.parents import hash_file
from ..record.run import Run
from . import executors, mixing
from .config import CurateConfig, CurateData
from .decide import Decided, decide
from .held_out import find_too_few, hold_out
from .ledger import Books, check_books
from .measures import SHARE, measure
from .progress import progress
from .reading import DOCUMENTS, Read, read_source, source_names
from .scores import score_shards, unscored, write_plan
from .shards import Corpus
from .steps import StepOf, make_step, steps_of
from .tokens import unit
from .writing import write

WORK = ".unfinished"  # the files are made here, below output_dir, and moved when all of them are whole
MOST = 0.5  # a rule that takes more of a source is reported


def curate(config: CurateConfig, data: CurateData, values: dict[str, Any], run: Run) -> None:
    """Read, score, decide, hold out, mix, test and write. values: of the recipe.

    Killed anywhere, the same command goes on: what was read and scored is in the cache, the rest takes seconds.
    Raises Refusal.
    """
    steps = steps_of(values["curate"].get("steps") or [])
    counter = make_step("tokens", "tokens", {"tokenizer": config.tokenizer})
    with name_full_disk(cache_directory()):
        sources = read(config, data)
        say(f"{sum(read.rows for read in sources):,} rows read from {len(sources)} sources")
        score(sources, [*steps, counter], config)
    with name_full_disk(config.output_dir):
        decide_and_write(Corpus(sources), sources, steps, counter, config, data, run)


def decide_and_write(
    corpus: Corpus,
    sources: list[Read],
    steps: list[StepOf],
    counter: StepOf,
    config: CurateConfig,
    data: CurateData,
    run: Run,
) -> None:
    directory = Path(config.output_dir)
    work = directory / WORK
    work.mkdir(exist_ok=True)
    (directory / LEDGER_FILE).unlink(missing_ok=True)  # of a run whose tests failed
    with progress("deciding", len(corpus)) as bar:
        decided = decide(corpus, sources, steps, counter, mixing.sample(corpus, data), work, bar)
    held_out, moved = split(corpus, config, data, decided, work)
    training = decided.alive & ~held_out
    mixture = mixing.mix(corpus, config, data, training, decided.sizes, decided.tokens)
    findings = [*find_greedy_rules(decided.books, corpus), *mixture.findings]
    if config.held_out:
        findings += find_too_few(config.held_out, int(decided.alive.sum()), int(held_out.sum()), moved)
    run.report(findings)
    books = [*decided.books, *split_books(corpus, decided, held_out, config)]
    books.append(mixing.book(corpus, mixture, training, decided.sizes, decided.tokens))
    metrics, languages = measure(corpus, steps, decided, mixture.times, held_out, books)
    run.metrics.update(metrics)
    if languages:  # a language of a test or gate that no document has
        run.metrics.update({name: 0.0 for name in named_shares(config.tests, run) if name not in metrics})
    licenses = [source.license for source in data.sources]
    ledger = {
        "unit": unit(counter.settings),
        "sources": [
            {"name": read.name, "license": license, "rows": read.rows}
            for read, license in zip(sources, licenses, strict=True)
        ],
        "steps": [book.as_json(corpus.source_names) for book in books],
        "rules": rules(books),
        "mixture": mixture.shares,
        "held_out": {"rows": int(held_out.sum()), "moved_back": moved} if config.held_out else None,
        "evaluation": contamination(steps, decided),
        "files": {},
    }
    require_tests(config, run, lambda: finish(work, directory, ledger, run))
    with progress("writing", int(decided.alive.sum())) as bar:
        ledger["files"] = write(
            corpus, work, mixture.times, held_out, decided.alive, languages, data.seed, bar
        )
    check_books(ledger, work)
    finish(work, directory, ledger, run)


def read(config: CurateConfig, data: CurateData) -> list[Read]:
    names = source_names(data.sources)
    with progress("reading", None) as bar:
        return [
            read_source(source, name, config, bar) for source, name in zip(data.sources, names, strict=True)
        ]


def score(sources: list[Read], steps: list[StepOf], config: CurateConfig) -> None:
    """Score what is not in the cache: by the executor, and with models in this process."""
    elsewhere = write_plan(sources, [step for step in steps if not step.in_main_process])
    if missing := unscored(elsewhere):
        say(
            f"scoring {len(missing):,} shards of up to {DOCUMENTS:,} documents: {', '.join(s.label for s in steps)}"
        )
        shards = sum(len(read.shards) for read in sources)
        executors.run(str(elsewhere), shards, config.executor, score_shards, "scoring")
    here = write_plan(sources, [step for step in steps if step.in_main_process])
    if indices := unscored(here):
        sizes = [shard["documents"] for read in sources for shard in read.shards]
        with progress("scoring with models", sum(sizes[i] for i in indices)) as bar:
            for index in indices:
                score_shards(here, [index])
                bar.update(sizes[index])


def split(corpus: Corpus, config: CurateConfig, data: CurateData, decided: Decided, work: Path):
    """(whether each document is held out, how many were moved back)."""
    import numpy as np

    if config.held_out is None:
        return np.zeros(len(corpus), bool), 0
    with progress("holding out", int(decided.alive.sum())) as bar:
        return hold_out(corpus, config.held_out, decided.alive, data.seed, work, bar)


def split_books(corpus: Corpus, decided: Decided, held_out: Any, config: CurateConfig) -> list[Books]:
    """The books of the held-out split: what it takes from training, it does not lose."""
    if config.held_out is None:
        return []
    books = Books("held-out")
    for source, name in enumerate(corpus.source_names):
        own = mixing.within(decided.alive, mixing.documents_of(corpus, source))
        books.stay(name, *mixing.totals(own & ~held_out, decided.sizes, decided.tokens))
        if (aside := own & held_out).any():
            books.leave_out(name, ("held-out",), *mixing.totals(aside, decided.sizes, decided.tokens))
    return [books]


def rules(books: list[Books]) -> dict[str, dict[str, dict[str, int]]]:
    """step -> source -> reason -> documents that the rule alone would leave out, of those that came to the step."""
    return {
        book.step: {name: dict(sorted(found.items())) for name, found in sorted(book.rules.items())}
        for book in books
        if book.rules and book.step not in ("read", "held-out", "mixture")
    }


def find_greedy_rules(books: list[Books], corpus: Corpus) -> list[Finding]:
    """rule-takes-most: a rule that leaves out more than half of a source's documents."""
    findings = []
    reading = books[0]
    for name, reasons in reading.left_out.items():
        for reason, (rows, *_) in reasons.items():
            if reason != "max_rows" and rows > MOST * reading.came[name][0]:
                message = f"{rows:,} of {reading.came[name][0]:,} rows become no document: {reason}"
                fix = "see lifecycle ledger RUN --step read --samples 5, then change the source's columns, or its rows"
                findings.append(Finding.warning("rule-takes-most", message, fix, name))
    for step, sources in rules(books).items():
        came = next(book.came for book in books if book.step == step)
        for name, reasons in sources.items():
            for reason, count in reasons.items():
                if count > MOST * came[name][0]:
                    message = (
                        f"{reason} of the step {step} leaves out {count:,} of {came[name][0]:,} documents"
                    )
                    fix = f"see lifecycle ledger RUN --step {step} --samples 5, then change the rule or the source"
                    findings.append(Finding.warning("rule-takes-most", message, fix, name))
    return findings


def contamination(steps: list[StepOf], decided: Decided) -> dict[str, Any]:
    """Label of a decontamination step -> the hits of every item, and the items that cannot be tested."""
    found = {}
    for step in steps:
        if step.name == "decontamination":
            module, settings = step.module, step.settings
            items = [[item.path, item.line, item.text] for item in module.unindexed(settings)]
            found[step.label] = {"hits": module.hits(decided.deciders[step.label]), "untested": items}
    return found


def named_shares(tests: list[str], run: Run) -> list[str]:
    """The shares of languages that the tests and the gate name."""
    lines = [parse(line) for line in [*tests, *run.raw.gate]]
    return [gate.metric for gate in lines if gate.metric.startswith(SHARE)]


def require_tests(config: CurateConfig, run: Run, keep: Callable[[], None]) -> None:
    """Raises Refusal data-test-failed, with exit status 3, if a line of `curate.tests` does not hold.

    keep: called before, to keep what shows why: the ledger and the left-out rows, without the data.
    """
    gates = [parse(line) for line in config.tests]
    verdicts = [judge_line(gate, {"metrics": run.metrics}, Path(config.output_dir)) for gate in gates]
    fix = f"see lifecycle ledger {config.output_dir}, then change the steps, or the test"
    failed = [
        Finding.error(
            "data-test-failed",
            f"`{v.line}` does not hold: {v.message}",
            fix,
            run.raw.place(f"curate.tests[{i}]"),
        )
        for i, v in enumerate(verdicts)
        if not v.ok
    ]
    if failed:
        keep()
        raise Refusal(*failed, status=GATE_FAILED)


def finish(work: Path, directory: Path, ledger: dict[str, Any], run: Run) -> None:
    """Move the files to their places, the ledger last, and note them in the record.

    After a kill in between, the record says `running`: no stage reads these files, and the next start moves its own.
    """
    for name in (LEFT_OUT, EDITS, HELD_OUT, TRAIN):
        if (work / name).exists():
            os.replace(work / name, directory / name)
        else:  # of an unfinished run of another recipe, or its tests failed
            (directory / name).unlink(missing_ok=True)
    write_json(work / LEDGER_FILE, ledger)
    os.replace(work / LEDGER_FILE, directory / LEDGER_FILE)
    shutil.rmtree(work)
    files = {name: entry["sha256"] for name, entry in ledger["files"].items()}
    run.note(data={"ledger_sha256": hash_file(directory / LEDGER_FILE), "files": files})


def say(line: str) -> None:
    """A line on stdout at the beginning of what may take long."""
    print(line, flush=True)
