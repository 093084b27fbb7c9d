"""Home and working directory are in nothing that is pushed, and nothing else is changed."""

import json
from pathlib import Path

import pytest
from curated import curate

from lifecycle_recipes.publish.private_paths import without_private_paths


@pytest.fixture
def at(tmp_path, monkeypatch):
    """Sets the home directory, and the working directory; returns both."""

    def move(home: str, work: str) -> tuple[Path, Path]:
        places = tuple(tmp_path / place if place != "/" else Path("/") for place in (home, work))
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("HOME", str(places[0]))
        monkeypatch.chdir(places[1])
        return places

    return move


def test_paths_are_seen_from_the_home_and_the_working_directory(at):
    home, work = at("jörg", "jörg/work")
    texts = {
        f"{home}": "~",
        f"{home}/": "~",
        f"{home}/data/a.jsonl": "~/data/a.jsonl",
        f"{work}": ".",
        f"in {work}: no file": "in .: no file",
        f"{work}/runs/x and {home}/.cache.": "runs/x and ~/.cache.",
        f"file:///{work}/runs": "file:///runs",
        f"{home}2/x": f"{home}2/x",
        f"{home}.bak/x": f"{home}.bak/x",
        f"/mnt{home}/x": f"/mnt{home}/x",
        f"https://x.io{work}/y": f"https://x.io{work}/y",
    }
    assert {text: without_private_paths(text) for text in texts} == texts
    assert without_private_paths({f"{work}/a": [f"{home}/b", 3, None]}) == {"a": ["~/b", 3, None]}


def test_a_root_is_no_private_directory(at):
    at("/", "/")
    text = "https://huggingface.co/me and /data/x"
    assert without_private_paths(text) == text


def test_records_of_a_model_name_no_user(hub, run, push, at):
    home, work = at("jörg", "jörg/work")
    record = json.loads((run / "run.json").read_text())
    paths = {"inputs": {f"{work}/rows.jsonl": "0"}, "recipe": {"text": f"path: {home}/rows.jsonl\n"}}
    paths |= {"settings": {"data": {"sources": [{"path": f"{home}/rows.jsonl"}]}}}
    (run / "run.json").write_text(json.dumps(record | paths | {"hardware": {"cpu": f"{home}"}}))
    assert push(run, "--license", "mit").returncode == 0
    files = hub.repos["me/desk"].branches["main"]
    sent = b"".join(files.values())
    assert "jörg".encode() not in sent and rb"j\u00f6rg" not in sent
    pushed = json.loads(files["lifecycle/07-dpo/run.json"])
    assert pushed["recipe"]["text"] == "path: ~/rows.jsonl\n" and pushed["inputs"] == {"rows.jsonl": "0"}


def test_rows_and_their_ledger_name_no_user(hub, push, at):
    home, _ = at("jörg", "jörg/work")
    file = home / "rows.jsonl"
    texts = [f"Service {i} listens on {8000 + i}, see {home}/notes." for i in range(8)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    run = curate(
        home / "curation", [{"path": str(file), "license": "mit"}], held_out={"fraction": 0.25}
    ).directory
    assert (
        rb"j\u00f6rg" in (run / "ledger.json").read_bytes() and str(home) in (run / "train.jsonl").read_text()
    )
    done = push(run, "--license", "mit")
    assert done.returncode == 0, done.stderr
    files = hub.repos["me/desk"].branches["main"]
    for name in ("ledger.json", "README.md"):
        assert "jörg" not in files[name].decode() and r"j\u00f6rg" not in files[name].decode()
    for name in ("train.jsonl", "held_out.jsonl"):
        own = [json.loads(line) for line in (run / name).read_text().splitlines()]
        rows = [json.loads(line) for line in files[name].decode().splitlines()]
        assert own and [row["text"] for row in rows] == [row["text"] for row in own]
        assert all(row["id"].startswith("~/rows.jsonl") and "jörg" not in row["source"] for row in rows)
