"""The benchmark of curation starts, collects text, and judges near-duplicates by their exact similarity."""

import importlib.util
import json
import subprocess
import sys

import pytest
from repository import ROOT

SCRIPT = ROOT / "benchmarks/curation.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark_curation", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def page(*changed: int) -> str:
    """200 words; those at the positions are other ones."""
    return " ".join(f"{'other' if i in changed else 'word'}{i}" for i in range(200))


def test_help_shows_an_example():
    done = subprocess.run([sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "python benchmarks/curation.py --mb 200 --scale 10" in done.stdout
    done = subprocess.run([sys.executable, str(SCRIPT), "--mb", "0"], capture_output=True, text=True)
    assert done.returncode == 2


def test_the_collected_text_is_the_same_in_every_run(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "documentation", lambda: benchmark.below(ROOT / "docs", (".md",)))
    monkeypatch.setattr(benchmark, "manuals", lambda: iter([ROOT / "no-such-file"]))
    monkeypatch.setattr(benchmark, "sources", lambda: benchmark.below(ROOT / "src", (".py",)))
    one, two = (benchmark.collect(tmp_path / name, 0.3) for name in ("a", "b"))
    assert one.rows == two.rows > 5 and 3e5 <= one.bytes == two.bytes
    files = sorted(path.name for path in one.folder.iterdir())
    assert len(files) == benchmark.PARTS
    assert all((one.folder / f).read_bytes() == (two.folder / f).read_bytes() for f in files)
    ids = [json.loads(line)["id"] for line in (one.folder / "part-1.jsonl").open()]
    assert ids == [f"part-1.jsonl:{i}" for i in range(1, len(ids) + 1)]


def test_similar_documents_are_found_with_their_jaccard(benchmark, tmp_path):
    # 1 and 2 differ in one word (191 of 201 shingles), 1 and 3 in six words apart from each other (0.734).
    rows = [page(), page(100), page(20, 50, 80, 110, 140, 170), "something else entirely " * 20]
    lines = [json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(rows, 1)]
    (tmp_path / "part-0.jsonl").write_text("".join(lines))
    found = benchmark.similar(benchmark.Corpus(tmp_path, len(rows), 1), sample=10)
    assert {name: sorted(others) for name, others in found.items()} == {
        "1": ["2", "3"],
        "2": ["1"],
        "3": ["1"],
        "4": [],
    }
    assert found["1"]["2"] == 191 / 201 and found["3"]["1"] == 166 / 226


def test_no_similar_document_is_overlooked(benchmark, tmp_path):
    """Twenty pairs just above the similarity that is looked for: few shingles of a document lead to the other."""
    rows = [
        page(*changed).replace("word", f"w{k}x") for k in range(20) for changed in [(), range(20, 174, 28)]
    ]
    lines = [json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(rows)]
    (tmp_path / "part-0.jsonl").write_text("".join(lines))
    found = benchmark.similar(benchmark.Corpus(tmp_path, len(rows), 1), sample=40)
    assert [list(others) for others in found.values()] == [[str(i ^ 1)] for i in range(40)]


TRUTH = {"a": {"b": 0.9}, "b": {"a": 0.9, "c": 0.75}, "c": {"b": 0.75}, "d": {}}
JUDGED = {
    "one of a pair": ({"b"}, ("100.0%", "0.0%", "0.0%")),
    "neither": (set(), ("0.0%", "-", "-")),
    "one that resembles a kept one a little": ({"b", "c"}, ("100.0%", "50.0%", "50.0%")),
    "a chain, whose middle is kept": ({"a", "c"}, ("100.0%", "50.0%", "0.0%")),
    "a stranger": ({"b", "d"}, ("100.0%", "50.0%", "50.0%")),
}


@pytest.mark.parametrize("removed, figures", JUDGED.values(), ids=JUDGED)
def test_recall_and_over_deletion(benchmark, removed, figures):
    assert benchmark.judge(TRUTH, removed) == figures


def test_a_command_is_measured_with_its_children(benchmark, tmp_path):
    work = "x = b'1' * 60_000_000\nfor _ in range(4_000_000): pass\nimport time; time.sleep(0.5)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    cost = benchmark.measured([sys.executable, "-c", parent], tmp_path / "log.txt", {})
    assert cost.peak > 60 and cost.cpu > 0 and cost.wall > 0.5


def test_a_failed_command_ends_the_benchmark(benchmark, tmp_path, capsys):
    with pytest.raises(SystemExit, match="ended with status 1"):
        benchmark.measured([sys.executable, "-c", "raise ValueError('here')"], tmp_path / "log.txt", {})
    assert "ValueError: here" in capsys.readouterr().err


def test_without_datatrove_the_install_line_is_printed(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "installed", lambda _package: False)
    assert benchmark.main(["--only", "datatrove", "--mb", "1"]) == 1
    assert "pip install 'datatrove==0.10.1'" in capsys.readouterr().out
