"""The record of one run: its inputs, environment and result, in `<output_dir>/run.json`. No torch.

    with Run(recipe.raw) as run:
        ...
        run.note(data=ledger)
        run.metrics["eval_loss"] = 1.5

The record is written when the run starts and when it ends, even with an error; `with stage_exit():` around it
converts the end into an exit status.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

from ..exit_status import Stopped, is_main_process, on_signals, stage_exit, stop_on_sigterm
from ..finding import FAILED, REFUSED, Finding, Refusal, refuse
from ..quiet import quiet
from ..redact import redact, redact_recipe, secret_values
from . import environment
from .checkpoints import clear_incomplete_checkpoints, find_incomplete_checkpoints, last_checkpoint
from .file import GATE_FILE, RUN_FILE, plain, read_record, write_json
from .gate import FAILED_GATE_FILE, parse
from .identity import find_differences, identify, identify_evaluation, is_same, settings
from .lock import OutputDirLock
from .model_files import hash_model_files
from .output_dir import claim_output_dir, find_other_host, wait_for_rank_0
from .parents import check_parent, describe_parent, find_parents, hash_file, hash_inputs, hash_weights

__all__ = ["Run", "Stopped", "quiet", "read_record", "stage_exit"]

SCHEMA_VERSION = 1
# A reserve, so that the last record can be written even if the weights have filled the disk.
# Upstream does not push files whose names start with an underscore.
SPARE_FILE, SPARE_BYTES = "_run.json.spare", 256 * 1024


class Run:
    """One run of a stage, used as a context manager.

    raw: its `recipe.read.RawRecipe`. metrics: name -> number; a stage adds to it. parents: role -> path.
    resume_from: last complete checkpoint if this same run is unfinished, else None. trained: this same run was
    trained and saved, and only its evaluation is left. origins: the places of the training rows
    (`data.provenance.Origins`), once they are prepared. earlier_layout: the layout of the attempt to resume
    from. Only rank 0 checks and writes; other ranks wait for its decision.
    """

    def __init__(self, raw):
        self.raw = raw
        seeds = raw.setting("train.seed"), raw.setting("data.seed")
        self.seed: int | None = next((seed for seed in seeds if seed is not None), None)
        self.output_dir = Path(raw.output_dir)
        self.metrics: dict[str, float] = {}
        self.findings: list[Finding] = []
        self.parents = find_parents(raw.values)
        self.resume_from: str | None = None
        self.trained = False
        self.origins = None
        self.earlier_layout: dict | None = None
        self._record: dict = {}
        self._lock: OutputDirLock | None = None
        self._clock, self._earlier_seconds = time.monotonic() - environment.startup_seconds(), 0.0
        self._restore = contextlib.ExitStack()

    def __enter__(self) -> "Run":
        if not is_main_process():
            record = wait_for_rank_0(self.output_dir)
            self.resume_from, self.trained = record.get("resumed_from"), bool(record.get("trained"))
            return self
        for line in self.raw.gate:
            parse(line)
        parents = {role: describe_parent(path, self.output_dir) for role, path in self.parents.items()}
        inputs = hash_inputs(self.raw.values)
        with self._or_unwritable():
            self._lock = OutputDirLock(self.output_dir)
        try:
            self._claim(parents, inputs)
        except BaseException:
            self._lock.release()
            raise
        self._restore.enter_context(stop_on_sigterm())
        try:
            for role, path in self.parents.items():
                sha = parents[role]["weights_sha256"]
                check_parent(role, path, sha, "--allow-failed-parent" in _flags(self.raw))
        except BaseException as problem:
            self.__exit__(type(problem), problem, None)
            raise
        return self

    def _claim(self, parents: dict, inputs: dict) -> None:
        """Decide what becomes of the directory, and write the record."""
        raw, directory = self.raw, self.output_dir
        earlier, moved_to = claim_output_dir(
            directory,
            identify(raw, parents, inputs),
            "--replace" in _flags(raw),
            lambda record: find_differences(record, raw, parents, inputs),
        )
        if moved_to:
            old = self._lock
            with self._or_unwritable():
                self._lock = OutputDirLock(directory)
            old.release(moved_to)
        kept = {}
        if earlier and is_trained(earlier, directory):
            kept = self._take_over(earlier)
        elif earlier and raw.stage != "ppo":  # PPO cannot resume
            self.resume_from = last_checkpoint(directory)
        if self.resume_from or self.trained:
            self._earlier_seconds = earlier.get("wall_seconds") or 0.0
            self.earlier_layout = earlier.get("layout")
        incomplete = find_incomplete_checkpoints(directory) if earlier and not self.trained else []
        if earlier:
            clear_incomplete_checkpoints(directory)
        self._record = {"data": None} | kept | self._describe(parents, inputs)
        self._create()
        self.report(find_other_host(earlier, directory) + incomplete)

    def _take_over(self, earlier: dict) -> dict:
        """What this run measured and found until the end of its training, from its earlier record."""
        self.trained = True
        self.metrics.update(earlier["trained"]["metrics"])
        warnings = [f for f in earlier.get("findings") or [] if f["severity"] == "warning"]
        self.findings = [Finding(*(f[key.name] for key in fields(Finding))) for f in warnings]
        return {key: value for key, value in earlier.items() if key not in ("samples", "evaluation")}

    def _describe(self, parents: dict, inputs: dict) -> dict:
        raw = self.raw
        return {
            "schema": SCHEMA_VERSION,
            "status": "running",
            "stage": raw.stage,
            "recipe": {"path": str(raw.path), "sha256": raw.sha256, "text": redact_recipe(raw.text)},
            "overrides": redact_recipe(raw.overrides),
            "flags": sorted(_flags(raw)),
            "output_dir": str(self.output_dir),
            "identity": identify(raw, parents, inputs),
            "evaluation_identity": identify_evaluation(raw, parents, inputs),
            "settings": settings(raw),
            "parents": parents,
            "inputs": inputs,
            "git_commit": environment.git_commit(),
            "versions": environment.versions(),
            "hardware": environment.hardware(),
            "layout": self.earlier_layout,
            "seed": self.seed,
            "process": environment.this_process(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "started_unix": time.time(),
            "resumed_from": self.resume_from,
            "gate": list(raw.gate),
            "allowed": {},
            "check_seconds": {},
            "metrics": {},
        }

    def _create(self) -> None:
        """The first write: if it fails, nothing has run yet."""
        with self._or_unwritable():
            for name in (GATE_FILE, FAILED_GATE_FILE):
                (self.output_dir / name).unlink(missing_ok=True)
            for left in self.output_dir.glob(f".{RUN_FILE}.*"):  # of a process that was killed while it wrote
                left.unlink(missing_ok=True)
            (self.output_dir / SPARE_FILE).write_bytes(os.urandom(SPARE_BYTES))
            self._write()

    @contextlib.contextmanager
    def _or_unwritable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError):  # if output_dir is a file, there is nothing to remove
                (self.output_dir / SPARE_FILE).unlink(missing_ok=True)
            fix = "free disk space, or choose another output_dir"
            raise refuse(
                "output-dir-unwritable", f"this directory is not writable: {error}", fix, str(self.output_dir)
            ) from error

    def note_trained(self) -> None:
        """The model is trained, saved and compared: from now on, a restart of this run only evaluates it."""
        if is_main_process():
            weights = hash_weights(self.output_dir)
            self.note(trained={"metrics": dict(self.metrics), "weights_sha256": weights})

    def note(self, **fields) -> None:
        """Merge top-level fields into the record (data, layout, tokens, samples, ...) and write it."""
        if is_main_process():
            self._record |= fields
            self._write()

    def report(self, findings: list[Finding]) -> None:
        """Print findings that do not end the run to stderr, and add them to the record; each one once.

        Waived findings are recorded under `allowed`, with the reason.
        """
        allow = self.raw.allow
        waived = {f.code: allow[f.code] for f in findings if f.code in allow}
        self._record.setdefault("allowed", {}).update(waived)
        fresh = [f for f in findings if f not in self.findings and f.code not in allow]
        if not is_main_process() or not fresh:
            return
        self.findings += fresh
        for finding in fresh:
            print(redact(str(finding)), file=sys.stderr)
        self._write()

    def _write(self) -> None:
        self._record["metrics"] = self.metrics
        self._record["findings"] = [finding.as_json() for finding in self.findings]
        self._record["wall_seconds"] = round(self._earlier_seconds + time.monotonic() - self._clock, 3)
        self._record |= environment.peak_memory()
        write_json(self.output_dir / RUN_FILE, redact(plain(self._record), secret_values(self.raw.values)))

    def __exit__(self, kind, error, trace) -> None:
        self._restore.close()
        if not is_main_process() or not self._record:
            return
        # A second Ctrl-C, or the launcher's SIGTERM after it, must not interrupt the last write.
        with on_signals(signal.SIG_IGN):
            self._record["status"] = status_of(error)
            if was_refused(error) and not self.metrics and not self.resume_from:
                self._record["refused"] = True  # nothing has run: the card leaves it out
            self.findings += [f for f in getattr(error, "findings", []) if f not in self.findings]
            if error is None:
                self._hash_outputs()
            self._record["hardware"] = (
                environment.hardware()
            )  # torch, if loaded by now, names the GPUs in use
            (self.output_dir / SPARE_FILE).unlink(missing_ok=True)
            try:
                self._write()
            except OSError as problem:
                self._cannot_write(problem, error)
            finally:
                self._lock.release()

    def _cannot_write(self, problem: OSError, error: BaseException | None) -> None:
        """A full disk must not hide the error that ended the run; without another error, it is the error."""
        message = f"the record of this run cannot be written: {problem}"
        if error is None:
            found = refuse(
                "record-unwritable", message, "free disk space and run the stage again", str(self.output_dir)
            )
            raise Refusal(*found.findings, status=FAILED) from problem
        print(f"warning: {self.output_dir}: {message}", file=sys.stderr)

    def _hash_outputs(self) -> None:
        self._record |= {k: self.metrics[k] for k in ("tokens", "tokens_per_second") if k in self.metrics}
        self._record["weights_sha256"] = hash_weights(self.output_dir)
        if files := hash_model_files(self.output_dir):
            self._record["files_sha256"] = files
        for field, name in (
            ("tokenizer_sha256", "tokenizer.json"),
            ("template_sha256", "chat_template.jinja"),
        ):
            if (file := self.output_dir / name).is_file():
                self._record.setdefault(field, hash_file(file))


def status_of(error: BaseException | None) -> str:
    """done, stopped, or `failed: why` in one line."""
    if error is None or (isinstance(error, SystemExit) and not error.code):
        return "done"
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    if isinstance(error, Refusal) and error.findings:
        first = error.findings[0]
        return f"failed: [{first.code}] " + (f"{first.where}: " if first.where else "") + first.message
    return " ".join(f"failed: {type(error).__name__}: {error}".split())


def is_trained(earlier: dict, output_dir: Path) -> bool:
    """Whether an unfinished run was trained and saved, and its model is still there, unchanged."""
    trained = earlier.get("trained")
    return bool(trained) and trained["weights_sha256"] == hash_weights(output_dir)


def was_refused(error: BaseException | None) -> bool:
    return isinstance(error, Refusal) and error.status == REFUSED


def is_done(raw) -> bool:
    """Whether output_dir already contains the finished run of this recipe, with these parents and files."""
    try:
        earlier = read_record(raw.output_dir)
    except Refusal:
        return False
    if earlier["status"] != "done":
        return False
    parents = {role: describe_parent(path, raw.output_dir) for role, path in find_parents(raw.values).items()}
    return is_same(earlier, raw, parents, hash_inputs(raw.values))


def _flags(raw) -> set[str]:
    """The flags in their command-line form, such as `--replace`."""
    return {"--" + flag.lstrip("-").replace("_", "-") for flag in raw.flags}
