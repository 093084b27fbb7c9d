"""Curation that is killed, stopped or out of disk anywhere: the same command ends with the same bytes."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from curated import Curated, run, write_recipe, write_rows
from repository import ROOT

from lifecycle_recipes.curation import curate as curate_module
from lifecycle_recipes.curation import reading
from lifecycle_recipes.exit_status import signal_in_words
from lifecycle_recipes.finding import FAILED, STOPPED, Refusal
from lifecycle_recipes.record.parents import check_parent, hash_weights

FILES = ("train.jsonl", "held_out.jsonl", "left_out.jsonl", "edits.jsonl", "ledger.json")
STEPS = [
    {"exact_duplicates": {}},
    {"quality": {"gopher": {"min_words": 8}, "gopher_repetition": None, "fineweb": None}},
    {"near_duplicates": {"threshold": 0.8}},
    {"personal_data": {"action": "mask"}},
]
pytestmark = pytest.mark.slow
DOCUMENTS = 12  # of a shard: about 50 shards
OURS = "lifecycle_recipes.curation"
# In the order in which a run comes to them.
POINTS = [
    f"{OURS}.reading:_write_shard",
    f"{OURS}.reading:_write_shard#20",
    f"{OURS}.curate:score",  # after the manifests
    f"{OURS}.scores:_write#60",
    f"{OURS}.scores:_write#60+",
    f"{OURS}.curate:score+",
    f"{OURS}.decide:_decide_shard#20",
    f"{OURS}.curate:decide+",
    f"{OURS}.curate:split+",
    f"{OURS}.writing:write_left_out",
    f"{OURS}.writing:hash_file",
    *(f"finish#{number}" for number in range(1, 8)),
    "lifecycle_recipes.record.run:Run._hash_outputs",
]


def rows(name: str, count: int) -> list[dict]:
    draw = random.Random(name)
    words = [
        f"{draw.choice('bdfgklmnprst')}{draw.choice('aeiou')}{draw.choice('lnrst')}e" for _ in range(300)
    ]
    found = []
    for n in range(count):
        text = " ".join(["the", *draw.choices(words, k=25), "and that is all of", name])
        found.append(
            {"text": text + (f" Write to person{n}@mail{n % 3}.example.com." if n % 5 == 0 else ".")}
        )
        if n % 11 == 0:
            found.append({"text": found[-1]["text"]})
        if n % 13 == 0:
            found.append({"text": f"{found[-1]['text']} Indeed."})
        if n % 17 == 0:
            found.append({"text": "too short"})
    return found


def make_recipe(folder: Path, workers: int = 2) -> str:
    """A recipe in its own folder; its rows are beside it, the same for every folder of a test."""
    parent = folder.parent
    sources = [
        {"path": write_rows(parent / "a.jsonl", rows("a", 300)), "weight": 2},
        {"path": write_rows(parent / "b.jsonl", rows("b", 200)), "weight": 1},
    ]
    held_out = {"fraction": 0.05}
    return write_recipe(folder, sources, steps=STEPS, held_out=held_out, executor={"workers": workers})


def start(recipe: str, point: str = "", *how: str) -> subprocess.Popen:
    """The stage in a process of its own, with a cache of its own."""
    path = os.pathsep.join([str(ROOT / "tests/fixtures"), *sys.path])
    environment = os.environ | {"LIFECYCLE_CACHE": f"{recipe}.cache", "PYTHONPATH": path}
    command = [sys.executable, "-c", "from curation_scoring import main; main()"]
    command += [recipe, str(DOCUMENTS), point, *how]
    return subprocess.Popen(
        command,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A test session in the background may ignore SIGINT, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def end(process: subprocess.Popen) -> tuple[int, str]:
    _, error = process.communicate(timeout=600)
    return process.returncode, error


def result(recipe: str) -> dict[str, bytes]:
    """The bytes of all files; also that nothing else is left, there and in the cache."""
    out = Path(recipe).parent / "out"
    assert {file.name for file in out.iterdir()} == {*FILES, "run.json"}
    cache = Path(f"{recipe}.cache")
    assert not [f for f in cache.rglob("*.parquet") if ".writing" in str(f) or ".reading" in str(f)]
    done = Curated(out, 0)
    assert done.record["status"] == "done"
    ids = [row["id"] for name in ("train", "held_out", "left_out") for row in done.rows(name)]
    assert len(set(ids)) == len(ids) == done.record["metrics"]["rows_in"]
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict[str, bytes], float]:
    """(folder, files, seconds) of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = make_recipe(folder / "whole")
    started = time.monotonic()
    assert end(start(recipe)) == (0, "")
    seconds = time.monotonic() - started
    files = result(recipe)
    assert all(files[name].count(b"\n") > 10 for name in FILES)
    return folder, files, seconds


def require_unread(recipe: str) -> None:
    """No stage reads the files of a run that is not finished."""
    out = Path(recipe).parent / "out"
    with pytest.raises(Refusal, match="parent-unfinished"):
        check_parent("data", str(out), hash_weights(out), False)


def test_killed_at_every_point_one_after_the_other(whole):
    folder, files, _ = whole
    recipe = make_recipe(folder / "points", workers=1)
    for point in POINTS:
        status, error = end(start(recipe, point))
        assert status == -signal.SIGKILL and "Traceback" not in error, point
        require_unread(recipe)
    assert end(start(recipe)) == (0, "")
    assert result(recipe) == files


@pytest.mark.parametrize("number", [3, 5])
def test_killed_between_two_renames_after_another_recipe_was(whole, number):
    """What an unfinished run of another recipe has left there, held-out documents too, is gone or replaced."""
    folder, files, _ = whole
    recipe = make_recipe(folder / f"renames-{number}", workers=1)
    other = Path(recipe).with_name("other.yaml")
    other.write_text(Path(recipe).read_text().replace("fraction: 0.05", "fraction: 0.2"))
    assert end(start(str(other), "finish#7"))[0] == -signal.SIGKILL
    assert end(start(recipe, f"finish#{number}"))[0] == -signal.SIGKILL
    require_unread(recipe)
    assert end(start(recipe)) == (0, "")
    assert result(recipe) == files


@pytest.mark.parametrize("number", range(10))
def test_killed_at_any_moment(whole, number):
    folder, files, seconds = whole
    recipe = make_recipe(folder / f"moment-{number}")
    process = start(recipe)
    time.sleep(seconds * (number + random.Random(number).random()) / 10)
    process.kill()
    assert end(process)[0] in (-signal.SIGKILL, 0)
    assert end(start(recipe))[0] in (0, 2)  # 2: it was done before
    assert result(recipe) == files


def test_a_worker_that_is_killed_is_named_and_the_run_goes_on(whole):
    folder, files, _ = whole
    recipe = make_recipe(folder / "worker")
    status, error = end(start(recipe, "", "kill"))
    assert status == FAILED
    assert f"error [worker-killed] a worker process was ended by {signal_in_words(signal.SIGKILL)}" in error
    assert "Traceback" not in error and "it continues" in error
    scored = {f for f in Path(f"{recipe}.cache").rglob("scores/*/*.parquet") if ".writing" not in str(f)}
    assert scored
    times = {file: file.stat().st_mtime_ns for file in scored}
    assert end(start(recipe)) == (0, "")
    assert result(recipe) == files
    assert {file: file.stat().st_mtime_ns for file in scored} == times, "a shard was scored again"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_stopped_by_a_signal(whole, number):
    folder, files, _ = whole
    recipe = make_recipe(folder / number.name)
    process = start(recipe, "", "slow")
    scores = Path(f"{recipe}.cache/curation/scores")
    for _ in range(600):
        if len(list(scores.glob("*/*.parquet"))) > 50:
            break
        time.sleep(0.05)
    process.send_signal(number)
    status, error = end(process)
    assert status == STOPPED and "run the same command to resume" in error and "Traceback" not in error
    assert Curated(Path(recipe).parent / "out", status).record["status"] == "stopped"
    assert end(start(recipe)) == (0, "")
    assert result(recipe) == files


# A full disk, in this process


def full_after(monkeypatch, writes: int) -> None:
    """The disk is full after so many shards and files of scores."""
    import pyarrow.parquet as pq

    write, done = pq.write_table, []

    def written(*arguments, **options):
        done.append(1)
        if len(done) > writes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(*arguments, **options)

    monkeypatch.setattr(pq, "write_table", written)


def full_at(name: str):
    """A file of the output is /dev/full, which takes no byte."""

    def plant(monkeypatch) -> None:
        decide = curate_module.decide

        def planted(*arguments):
            (arguments[5] / name).symlink_to("/dev/full")
            return decide(*arguments)

        monkeypatch.setattr(curate_module, "decide", planted)

    return plant


FULL = {
    "reading": lambda monkeypatch: full_after(monkeypatch, 2),
    "scoring": lambda monkeypatch: full_after(monkeypatch, 40),
    **{name: full_at(name) for name in ("left_out.jsonl", "edits.jsonl", "held_out.jsonl", "train.jsonl")},
}


@pytest.mark.parametrize("plant", FULL.values(), ids=FULL)
def test_a_full_disk_is_named_and_the_run_goes_on(tmp_path, monkeypatch, capsys, plant):
    monkeypatch.setattr(reading, "DOCUMENTS", 40)
    monkeypatch.setenv("LIFECYCLE_CACHE", str(tmp_path / "cache"))
    whole = run(make_recipe(tmp_path / "whole", workers=1))
    monkeypatch.setenv("LIFECYCLE_CACHE", str(tmp_path / "full/curate.yaml.cache"))
    recipe = make_recipe(tmp_path / "full", workers=1)
    capsys.readouterr()
    with monkeypatch.context() as planted:
        plant(planted)
        assert run(recipe).status == FAILED
    error = capsys.readouterr().err
    assert "error [disk-full]" in error and "Traceback" not in error
    require_unread(recipe)
    for file in (tmp_path / "full/out").rglob("*.jsonl"):
        if file.is_symlink():
            file.unlink()
    assert run(recipe).status == 0
    assert result(recipe) == {name: (whole.directory / name).read_bytes() for name in FILES}


def test_held_out_rows_of_an_unfinished_run_of_another_recipe_do_not_stay(tmp_path):
    file = write_rows(
        tmp_path / "a.jsonl", [{"text": f"The text number {n} has {n * n} words."} for n in range(40)]
    )
    first = run(write_recipe(tmp_path, [file], held_out={"fraction": 0.2}))
    record = first.record | {"status": "running", "process": {"host": "elsewhere", "pid": 1, "started": 0.0}}
    (first.directory / "run.json").write_text(json.dumps(record))
    (first.directory / ".run.json.half").write_text("{")
    done = run(write_recipe(tmp_path, [file]))
    assert done.status == 0 and len(done.train) == 40
    left = {file.name for file in done.directory.iterdir()}
    assert left == {"train.jsonl", "left_out.jsonl", "edits.jsonl", "ledger.json", "run.json"}
