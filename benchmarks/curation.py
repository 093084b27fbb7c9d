"""The steps of curation against the blocks of datatrove, on real text of this machine, with two workers each.

    python benchmarks/curation.py
    python benchmarks/curation.py --mb 200 --scale 10
    python benchmarks/curation.py --mb 5 --only datatrove

The text is the documentation, the manual pages and the Python sources that are installed here, a third each, in an
order that depends on the paths alone. It is collected into a temporary folder. Ours is `lifecycle run` of a recipe
with exact and near-duplicates, language, quality and personal data; theirs is benchmarks/curation_datatrove.py,
without a language step, because that one would download. Both are whole processes, imports included, on the same
two cores, without any cached score. --scale 10 also runs both on the first tenth of the text, for the growth of
memory.

Wall and CPU seconds are of all processes of a run, as is the peak of memory (proportional set size, so that shared
pages count once). Recall and over-deletion of near-duplicates are exact: the Jaccard similarity of the sets of 5
words of a sample of documents to all others. Recall: of the sampled documents with another at 0.8 or above, the share
that was left out or whose others all were. Over-deletion: of the sampled documents that were left out as exact or
near-duplicates, the share without a kept document at the similarity.
"""

import argparse
import gzip
import importlib.metadata
import json
import math
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import psutil
import yaml

from lifecycle_recipes.curation.words import words
from lifecycle_recipes.record import environment

HERE = Path(__file__).resolve().parent
CORES = 2
DATATROVE = "0.10.1"
INSTALL = f"pip install 'datatrove=={DATATROVE}' orjson xxhash"
PARTS = 8  # files of the corpus: datatrove's unit of work
SHORTEST, LONGEST = 200, 100_000  # characters of a document; of a longer file the first so many
SHINGLE, ALIKE, LOOSELY_ALIKE = 5, 0.8, 0.7
STEPS = [
    {"exact_duplicates": {}},
    {"near_duplicates": {"threshold": ALIKE, "shingle": SHINGLE}},
    {"language": {"keep": ["en"]}},
    {"quality": {"gopher": {}, "gopher_repetition": {}, "fineweb": {"max_repeated_line_characters": 0.01}}},
    {"personal_data": {"action": "mask"}},
]
DUPLICATES = {"exact_duplicates", "near_duplicates"}


@dataclass(frozen=True)
class Corpus:
    """Folder of JSONL files; rows and bytes of text in them."""

    folder: Path
    rows: int
    bytes: int


@dataclass(frozen=True)
class Cost:
    wall: float  # seconds
    cpu: float  # seconds, of all processes
    peak: float  # MB, of all processes together


def main(argv: list[str] | None = None) -> int:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("curation.py", description=__doc__, formatter_class=shape)
    parser.add_argument("--mb", type=positive, default=50, help="megabytes of text (default: 50)")
    parser.add_argument("--scale", type=positive, metavar="N", help="also on the Nth part of the text")
    parser.add_argument("--only", choices=["ours", "datatrove"], help="measure one of the two")
    parser.add_argument("--sample", type=positive, default=2000, help="documents for recall (default: 2000)")
    args = parser.parse_args(argv)
    runners = {"ours": run_ours, "datatrove": run_datatrove}
    if args.only:
        runners = {args.only: runners[args.only]}
    if "datatrove" in runners and not installed("datatrove"):
        print(f"datatrove is not installed, so only ours is measured; to compare: {INSTALL}")
        del runners["datatrove"]
        if not runners:
            return 1
    print(f"hardware: {as_text(environment.hardware())}")
    with tempfile.TemporaryDirectory(prefix="curation-") as folder:
        sizes = [args.mb] + ([args.mb / args.scale] if args.scale else [])
        peaks: dict[str, list[float]] = {}
        for number, size in enumerate(sizes):
            corpus = collect(Path(folder) / f"corpus{number}", size)
            print(f"\n{corpus.bytes / 1e6:.1f} MB in {corpus.rows} documents", flush=True)
            truth = similar(corpus, args.sample)
            print(
                f"{'':<10}  wall s   CPU s    MB/s   peak MB   recall  over-deletion at {ALIKE}, {LOOSELY_ALIKE}"
            )
            for name, run in runners.items():
                out = Path(folder) / f"{name}{number}"
                cost = run(corpus, out)
                peaks.setdefault(name, []).append(cost.peak)
                removed = REMOVED[name](out)
                print(line(name, corpus, cost, judge(truth, removed)), flush=True)
        if args.scale:
            for name, (large, small) in peaks.items():
                print(f"{name}: {args.scale} times the text needs {large / small:.2f} times the memory")
    return 0


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return int(text)


def as_text(facts: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value)


def installed(package: str) -> bool:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    if version != DATATROVE:
        print(f"datatrove is {version}; the figures in the documentation are of {DATATROVE}")
    return True


# The text


def collect(folder: Path, megabytes: float) -> Corpus:
    """Write about so many megabytes of the machine's text to `folder`, a third of each kind where there is enough."""
    folder.mkdir()
    limit = int(megabytes * 1e6)
    kinds = [in_path_order(paths) for paths in (documentation(), manuals(), sources())]
    parts = [(folder / f"part-{i}.jsonl").open("w", encoding="utf-8") for i in range(PARTS)]
    lines, size, rows = [0] * PARTS, 0, 0
    while size < limit and kinds:
        for kind in list(kinds):
            path = next(kind, None)
            if path is None:
                kinds.remove(kind)
                continue
            text = read(path)
            if text is None or size >= limit:
                continue
            part = rows % PARTS
            lines[part] += 1
            row = {"id": f"part-{part}.jsonl:{lines[part]}", "text": text}
            parts[part].write(json.dumps(row, ensure_ascii=False) + "\n")
            size, rows = size + len(text.encode()), rows + 1
    for part in parts:
        part.close()
    if size < 0.9 * limit:
        print(f"this machine has only {size / 1e6:.1f} MB of such text")
    return Corpus(folder, rows, size)


def in_path_order(paths: Iterator[Path]) -> Iterator[Path]:
    """The paths in an order that mixes folders and is the same in every run."""
    return iter(sorted(paths, key=lambda path: blake2b(str(path).encode(), digest_size=8).digest()))


def documentation() -> Iterator[Path]:
    yield from below(Path("/usr/share/doc"), (".md", ".rst", ".txt", ".gz", "copyright"))
    yield from below(Path(sysconfig.get_path("purelib")), (".md", ".rst", ".txt"))


def manuals() -> Iterator[Path]:
    yield from below(Path("/usr/share/man"), (".gz",))


def sources() -> Iterator[Path]:
    library, installed = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
    yield from (path for path in below(library, (".py",)) if "site-packages" not in path.parts)
    yield from below(installed, (".py",))


def below(folder: Path, ends: tuple[str, ...]) -> Iterator[Path]:
    for here, _, names in os.walk(folder):
        yield from (Path(here, name) for name in names if name.endswith(ends))


def read(path: Path) -> str | None:
    """The text of a file; None if it is not UTF-8 text, too short, or not readable."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode()
    except (OSError, EOFError, UnicodeDecodeError, ValueError):
        return None
    return text[:LONGEST] if len(text) >= SHORTEST and "\0" not in text else None


# The two runs


def run_ours(corpus: Corpus, out: Path) -> Cost:
    out.mkdir()
    recipe = {
        "stage": "curate",
        "data": {"sources": [{"path": str(corpus.folder / "*.jsonl")}]},
        "curate": {"output_dir": str(out / "run"), "kind": "text", "steps": STEPS},
    }
    (out / "curate.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    command = [sys.executable, "-m", "lifecycle_recipes.cli", "run", str(out / "curate.yaml")]
    return measured(command, out / "log.txt", {"LIFECYCLE_CACHE": str(out / "cache")})


def run_datatrove(corpus: Corpus, out: Path) -> Cost:
    out.mkdir()
    command = [sys.executable, str(HERE / "curation_datatrove.py"), str(corpus.folder), str(out)]
    return measured(command, out / "log.txt", {})


def measured(command: list[str], log: Path, settings: dict[str, str]) -> Cost:
    """Run a command on CORES cores and return what it cost. Ends this program if it fails."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **os.environ, **settings}
    peak, cpu = 0.0, {}
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=settings)
        os.sched_setaffinity(process.pid, cores)
        while process.poll() is None:
            peak = max(peak, look(process.pid, cpu))
            time.sleep(0.1)
        wall = time.perf_counter() - start
    if process.returncode:
        print(log.read_text(errors="replace")[-3000:], file=sys.stderr)
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
    return Cost(wall, sum(cpu.values()), peak / 1e6)


def look(root: int, cpu: dict[tuple[int, float], float]) -> float:
    """Memory in bytes of a process and all below it now; notes the CPU seconds that each has used so far."""
    memory = 0.0
    try:
        tree = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.Error:
        return memory
    for process in tree:
        try:
            times = process.cpu_times()
            cpu[process.pid, process.create_time()] = times.user + times.system
            memory += process.memory_full_info().pss
        except psutil.Error:  # it has ended, or this is not Linux
            continue
    return memory


# Near-duplicates: what is true, and what was found


def similar(corpus: Corpus, sample: int) -> dict[str, dict[str, float]]:
    """{id: {id of another: Jaccard}} of documents spread evenly over the corpus: all others at LOOSELY_ALIKE."""
    every = max(1, corpus.rows // sample)
    chosen: dict[str, set[bytes]] = {}
    for number, (name, text) in enumerate(texts(corpus)):
        if number % every == 0:
            chosen[name] = shingles(text)
    # Whatever shares LOOSELY_ALIKE of a set's shingles has one of any larger part of the rest: the smallest ones.
    index: dict[bytes, list[str]] = {}
    for name, own in chosen.items():
        for shingle in sorted(own)[: len(own) - math.ceil(LOOSELY_ALIKE * len(own)) + 1]:
            index.setdefault(shingle, []).append(name)
    found: dict[str, dict[str, float]] = {name: {} for name in chosen}
    for name, text in texts(corpus):
        other = shingles(text)
        for candidate in {one for shingle in other & index.keys() for one in index[shingle]} - {name}:
            own = chosen[candidate]
            if min(len(own), len(other)) < LOOSELY_ALIKE * max(len(own), len(other)):
                continue
            common = len(own & other)
            value = common / (len(own) + len(other) - common)
            if value >= LOOSELY_ALIKE:
                found[candidate][name] = value
    return found


def texts(corpus: Corpus) -> Iterator[tuple[str, str]]:
    for path in sorted(corpus.folder.glob("*.jsonl")):
        for row in map(json.loads, path.open(encoding="utf-8")):
            yield row["id"], row["text"]


def shingles(text: str) -> set[bytes]:
    found = words(text)
    groups = (" ".join(found[i : i + SHINGLE]) for i in range(max(1, len(found) - SHINGLE + 1)))
    return {blake2b(group.encode("utf-8", "surrogatepass"), digest_size=8).digest() for group in groups}


def removed_by_ours(out: Path) -> set[str]:
    with (out / "run/left_out.jsonl").open(encoding="utf-8") as lines:
        rows = map(json.loads, lines)
        gone = (row["id"] for row in rows if row["step"].replace("-", "_") in DUPLICATES)
        return {Path(name).name for name in gone}


def removed_by_datatrove(out: Path) -> set[str]:
    files = (out / "left_out/near_duplicates").glob("*.jsonl")
    return {json.loads(row)["id"] for path in files for row in path.open(encoding="utf-8")}


REMOVED = {"ours": removed_by_ours, "datatrove": removed_by_datatrove}


def judge(truth: dict[str, dict[str, float]], removed: set[str]) -> tuple[str, str, str]:
    """(recall, over-deletion at ALIKE, at LOOSELY_ALIKE) as percentages; "-" where nothing was to be measured."""
    met = wanted = gone = 0
    alone = {ALIKE: 0, LOOSELY_ALIKE: 0}
    for name, others in truth.items():
        close = {other for other, value in others.items() if value >= ALIKE}
        wanted += bool(close)
        met += bool(close) and (name in removed or close <= removed)
        gone += name in removed
        for limit in alone:
            kept = any(value >= limit and other not in removed for other, value in others.items())
            alone[limit] += name in removed and not kept
    shares = [(met, wanted), (alone[ALIKE], gone), (alone[LOOSELY_ALIKE], gone)]
    first, second, third = (f"{part / whole:.1%}" if whole else "-" for part, whole in shares)
    return first, second, third


def line(name: str, corpus: Corpus, cost: Cost, figures: tuple[str, str, str]) -> str:
    speed = corpus.bytes / 1e6 / cost.wall
    recall, over, over_loosely = figures
    return (
        f"{name:<10}{cost.wall:>8.1f}{cost.cpu:>8.1f}{speed:>8.2f}{cost.peak:>10.0f}"
        f"{recall:>9}  {over:>8}, {over_loosely}"
    )


if __name__ == "__main__":
    sys.exit(main())
