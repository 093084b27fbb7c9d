"""Entries of the data cache on disk: whole or not used, whatever happens to them or to their writers."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cached_rows import build, entries, everything, is_hit
from datasets import Dataset

from lifecycle_recipes.data import cache, sources
from lifecycle_recipes.finding import Refusal

pytestmark = pytest.mark.usefixtures("own_cache")


DAMAGES = {
    "truncated": lambda entry: os.truncate(next(entry.glob("train/*.arrow")), 100),
    "other content": lambda entry: flip(next(entry.glob("train/*.arrow"))),
    "a missing file": lambda entry: os.remove(entry / "eval/state.json"),
    "no manifest": lambda entry: os.remove(entry / "manifest.json"),
    "half a manifest": lambda entry: os.truncate(entry / "manifest.json", 40),
}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_made_again_and_this_is_said(recipe_of, damage):
    path = recipe_of("dpo")
    made = everything(*build(path))
    damage(entries()[0])
    trainer, run = build(path)
    assert [f.code for f in run.findings] == ["cache-entry-damaged"]
    assert run.notes["data_cache"]["hit"] is False and everything(trainer, run) == made
    assert is_hit(path) and len(entries()) == 1


def test_a_start_hashes_an_entry_only_where_a_file_changed_or_on_demand(recipe_of, monkeypatch):
    """To hash all of a large entry takes minutes."""
    build(recipe_of("dpo"))
    (entry,) = entries()
    file, hashed, hash_file = next(entry.glob("train/*.arrow")), [], cache.hash_file
    monkeypatch.setattr(cache, "hash_file", lambda f: hashed.append(f) or hash_file(f))
    assert cache.find_damage(entry) == "" and hashed == []
    os.utime(file)  # as a copy of the cache: another time, the same content
    assert cache.find_damage(entry) == "" and hashed == [file]
    assert cache.find_damage(entry) == "" and hashed == [file]  # its new time is known now
    written = json.loads((entry / "manifest.json").read_text())["files"][f"train/{file.name}"][2]
    flip(file)
    os.utime(file, ns=(written, written))  # as a failing disk: nothing but the content shows it
    assert cache.find_damage(entry) == ""
    monkeypatch.setenv("LIFECYCLE_CHECK_CACHE", "1")
    assert file.name in cache.find_damage(entry)
    DAMAGES["truncated"](entry)
    assert "has 100 bytes, not" in cache.find_damage(entry)


# Writes the entry `key` and stops for good where the argument says.
KILLED = """
import sys, time
from datasets import Dataset
from lifecycle_recipes.data import cache

def stop(*args, **kwargs):
    print("here", flush=True)
    time.sleep(600)

key, moment = sys.argv[1:]
place = cache.workplace(key)
rows = Dataset.from_list([{"input_ids": [1, 2, 3]}])
if moment == "manifest":
    cache.hash_file = stop
else:
    cache.os.rename = stop
cache.write_entry(key, cache.Rows(rows, rows, {}), {}, place)
"""


@pytest.mark.parametrize("moment", ["manifest", "rename"])
def test_what_a_killed_process_left_is_not_used_and_is_removed(recipe_of, moment):
    path = recipe_of("dpo")
    made = everything(*build(path))
    entry = entries()[0]
    shutil.rmtree(entry)
    command = [sys.executable, "-c", KILLED, entry.name, moment]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "here\n"
    working = entries()
    assert list(working[0].rglob("*.arrow")), "it was killed before it wrote anything"
    assert not is_hit(path) and working[0] in entries()  # a live one is left alone
    shutil.rmtree(entry)
    process.send_signal(signal.SIGKILL)
    process.wait()
    trainer, run = build(path)
    assert run.notes["data_cache"]["hit"] is False and everything(trainer, run) == made
    assert entries() == [entry]


def test_two_writers_of_one_entry_do_no_harm(recipe_of, monkeypatch):
    """Another process finishes first, while this one is still at work."""
    path, load = recipe_of("dpo"), sources.load_data

    def load_late(*args, **kwargs):
        monkeypatch.setattr(sources, "load_data", load)
        build(path)
        return load(*args, **kwargs)

    monkeypatch.setattr(sources, "load_data", load_late)
    _, run = build(path)
    assert run.findings == [] and len(entries()) == 1 and is_hit(path)


@pytest.mark.parametrize("when", ["no directory", "disk full at the end", "disk full at work"])
def test_without_a_cache_the_run_goes_on_and_this_is_said(recipe_of, monkeypatch, tmp_path, when):
    path = recipe_of("dpo")
    made = everything(*build(path))
    (tmp_path / "file").touch()
    monkeypatch.setenv("LIFECYCLE_CACHE", str(tmp_path / ("file" if when == "no directory" else "second")))
    full, load = OSError(errno.ENOSPC, "No space left on device"), sources.load_data

    def write(*args, **kwargs):
        raise full

    def load_into(*args):
        if str(tmp_path) in str(args[-1]):
            raise full
        return load(*args)

    if when == "disk full at the end":
        monkeypatch.setattr(Dataset, "save_to_disk", write)
    if when == "disk full at work":
        monkeypatch.setattr(sources, "load_data", load_into)
    trainer, run = build(path)
    assert [f.code for f in run.findings] == ["cache-unusable"]
    assert everything(trainer, run) == made
    assert when == "no directory" or entries() == []


def test_a_refusal_leaves_nothing_behind(recipe_of):
    path = recipe_of("kto")
    with pytest.raises(Refusal, match="bad-label"):
        file = Path(path).parent / "train.jsonl"
        file.write_text(file.read_text().replace("false", "null", 1))
        build(path)
    assert entries() == []


def test_the_cache_is_where_it_is_said_to_be(monkeypatch, tmp_path):
    assert cache.rows_directory() == tmp_path / "cache/rows"
    monkeypatch.delenv("LIFECYCLE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.rows_directory() == tmp_path / "x/lifecycle_recipes/rows"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache.rows_directory() == Path("/home/me/.cache/lifecycle_recipes/rows")
