"""`weight` of a source: its share of the training tokens, with every row that repeats or is left out counted."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from cached_rows import STAGES, build, is_hit
from inspected import seen, summary
from preference_runs import message

from lifecycle_recipes.data.config import DataConfig, Source
from lifecycle_recipes.data.provenance import ROW
from lifecycle_recipes.data.shares import find_in_weights
from lifecycle_recipes.data.sources import load_data
from lifecycle_recipes.doctor.check import check

pytestmark = pytest.mark.usefixtures("own_cache")


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def row_of(stage: str, i: int, text: str) -> dict:
    """A row of a stage that holds `text` about once."""
    asked, reply = user(f"What is service {i}? {text}"), message(f"Service {i}: {text}")
    return {
        "pretrain": {"text": f"Service {i}: {text}"},
        "sft": {"messages": asked + reply},
        "reward": {"prompt": asked, "chosen": reply, "rejected": message("Who knows?")},
        "dpo": {"prompt": asked, "chosen": reply, "rejected": message("Who knows?")},
        "kto": {"prompt": asked, "completion": reply, "label": bool(i % 2)},
        "ppo": {"prompt": asked},
    }[stage]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def weighted(recipe_of, tmp_path):
    """Writes a recipe of a stage over two sources whose tokens have different numbers of characters."""

    def make(stage, weights=(3, 1), rows=(60, 60), **data):
        words = [row_of(stage, i, "the wiki of the team " * (1 + i % 3)) for i in range(rows[0])]
        # Bytes: each character is a token or more.
        odd = [row_of(stage, 1000 + i, "ǿЖ漢ﬀ" * (1 + i % 4)) for i in range(rows[1])]
        sources = [write(tmp_path / "words.jsonl", words), write(tmp_path / "odd.jsonl", odd)]
        path = Path(recipe_of(stage))
        recipe = yaml.safe_load(path.read_text())
        recipe["data"]["sources"] = [
            {"path": source, "weight": weight} for source, weight in zip(sources, weights, strict=True)
        ]
        recipe["data"] |= data
        path.write_text(yaml.safe_dump(recipe))
        return str(path)

    return make


def balanced(ledger: dict) -> bool:
    left_out = sum(ledger["left_out"].values())
    return ledger["rows_in"] + ledger.get("repeated", 0) == ledger["rows_out"] + left_out


@pytest.mark.parametrize("stage", STAGES)
def test_a_weight_is_a_share_of_the_tokens(weighted, stage):
    path = weighted(stage)
    trainer, run = build(path)
    ledger, sources = run.notes["data"], run.notes["data"]["sources"][:2]
    assert [source["share_tokens"] for source in sources] == pytest.approx([0.75, 0.25], abs=0.02)
    assert [source["share_wanted"] for source in sources] == [0.75, 0.25] and run.findings == []
    assert [source["weight"] for source in sources] == [3, 1]
    assert balanced(ledger) and "repeated" not in ledger
    # Nothing is repeated: of one source all rows train, of the other a part.
    assert max(source["epochs"] for source in sources) == 1
    assert ledger["left_out"] == {"weight": 120 - sum(source["rows_chosen"] for source in sources)}
    # Characters would have missed the shares.
    assert sources[0]["weight_in_characters"] / sources[1]["weight_in_characters"] > 3.3
    again, _ = build(path)
    assert again.train_dataset.to_list() == trainer.train_dataset.to_list()
    assert is_hit(path) and not is_hit(path, "--data.sources.0.weight", "2")


@pytest.mark.parametrize("stage", STAGES)
def test_inspect_counts_the_same_tokens_and_shows_the_epochs(weighted, stage):
    """Rows that the weights left out are none that the trainer dropped."""
    inspection, _, notes = seen(weighted(stage, max_repetition=1.5), rows=1)
    shown = summary(inspection)
    assert "dropped" not in shown["rows"] and f"{notes['data']['repeated']} repeated" in shown["rows"]
    for source, line in zip(notes["data"]["sources"], shown["sources"].split("\n"), strict=False):
        assert f"{source['tokens']:,} tokens ({source['share_tokens']:.1%}, weight " in line
        assert line.endswith(f"{source['share_wanted']:.1%}, seen {source['epochs']:g} times)")


def load(tmp_path, sizes, weights, characters=(20, 20), **data):
    sources = [
        Source(
            write(
                tmp_path / f"{i}.jsonl",
                [{"text": f"{i} {row:03} ".ljust(length, "x")} for row in range(rows)],
            ),
            weight=weight,
        )
        for i, (rows, weight, length) in enumerate(zip(sizes, weights, characters, strict=True))
    ]
    return load_data(DataConfig(sources, **data), ["text"])


@pytest.mark.parametrize(
    ("sizes", "weights", "max_repetition", "rows", "repeated", "left_out"),
    [
        ((40, 40), (3, 1), 1, (40, 13), 0, 27),
        ((40, 40), (0.3, 0.1), 1, (40, 13), 0, 27),
        ((40, 40), (1, 1), 1, (40, 40), 0, 0),
        ((40, 10), (1, 1), 1, (10, 10), 0, 30),
        ((40, 10), (1, 1), 2, (20, 20), 10, 20),
        ((40, 10), (1, 1), 2.5, (25, 25), 15, 15),
        ((40, 10), (1, 1), 4, (40, 40), 30, 0),
        ((40, 10), (1, 1), 100, (40, 40), 30, 0),
        ((4, 400), (1000, 1), 1, (4, 1), 0, 399),
    ],
)
def test_rows_are_left_out_or_repeated(tmp_path, sizes, weights, max_repetition, rows, repeated, left_out):
    train, _, ledger = load(tmp_path, sizes, weights, max_repetition=max_repetition)
    numbers = Counter(train[ROW])
    got = Counter(number >= sizes[0] for number in train[ROW])
    assert (got[False], got[True]) == rows
    assert ledger.get("repeated", 0) == repeated and ledger["left_out"].get("weight", 0) == left_out
    assert balanced(ledger) and ledger["rows_out"] == len(train)
    # Passes over a source are whole before a row is there once more.
    for first, size in ((0, sizes[0]), (sizes[0], sizes[1])):
        times = [numbers[first + i] for i in range(size)]
        assert max(times) - min(times) <= 1
    # A repeated row is the row of its number.
    assert all(
        text.startswith(f"{int(n >= sizes[0])} {n - sizes[0] * (n >= sizes[0]):03}")
        for n, text in zip(train[ROW], train["text"], strict=True)
    )


def test_shares_are_of_text_and_not_of_rows(tmp_path):
    train, _, ledger = load(tmp_path, (40, 40), (1, 1), characters=(20, 80))
    first, second = ledger["sources"]
    assert (first["rows_chosen"], second["rows_chosen"]) == (40, 10)
    assert (first["share_rows"], second["share_rows"], second["epochs"]) == (0.8, 0.2, 0.25)


def test_the_mix_depends_on_the_seed_alone(tmp_path):
    one, two, other = (load(tmp_path, (40, 40), (3, 1), seed=seed) for seed in (1, 1, 2))
    assert one[0][ROW] == two[0][ROW] != other[0][ROW]
    assert one[2]["fingerprint"] == two[2]["fingerprint"] != other[2]["fingerprint"]
    assert load(tmp_path, (40, 40), (2, 1), seed=1)[2]["fingerprint"] != one[2]["fingerprint"]


def test_held_out_rows_never_train(tmp_path):
    train, held_out, ledger = load(tmp_path, (40, 10), (1, 1), eval_fraction=0.2, max_repetition=10)
    assert len(set(held_out[ROW])) == len(held_out) == 10 == ledger["eval_rows"]
    assert not set(held_out[ROW]) & set(train[ROW])
    assert set(held_out[ROW]) | set(train[ROW]) == set(range(50)) and balanced(ledger)
    plain = load(tmp_path, (40, 10), (None, None), eval_fraction=0.2)
    assert plain[1][ROW] == held_out[ROW]


def test_a_source_that_is_all_held_out(tmp_path):
    with pytest.raises(Exception, match=r"no-rows.*1\.txt.*held out"):
        paths = []
        for i, rows in enumerate((30, 3)):
            (tmp_path / f"{i}.txt").write_text("".join(f"line {i} {n}\n" for n in range(rows)))
            paths.append(Source(str(tmp_path / f"{i}.txt"), weight=1))
        load_data(DataConfig(paths, eval_fraction=0.2), ["text"])


@pytest.mark.parametrize(
    ("weights", "rows", "code", "words"),
    [
        ((1, 1), (60, 4), "weight-leaves-out", "odd.jsonl"),
        ((40, 1), (3, 3), "weight-missed", "asks for"),
    ],
)
def test_what_weights_cost_is_a_warning(weighted, weights, rows, code, words):
    path = weighted("sft", weights, rows)
    for _ in range(2):  # the second time with the rows from the cache
        (finding,) = [f for f in check(path).findings if f.code == code]
        assert finding.severity == "warning" and words in str(finding)


def test_the_repetition_that_a_warning_proposes_uses_all_rows(weighted):
    path, code = weighted("sft", (1, 1), (60, 4)), "weight-leaves-out"
    (finding,) = [f for f in find_in_weights(build(path)[1].origins.sources) if f.code == code]
    proposed = finding.fix.split("max_repetition: ")[1].split("`")[0]
    run = build(path, "--data.max_repetition", proposed)[1]
    assert "weight" not in run.notes["data"]["left_out"] and run.notes["data"]["repeated"] > 0
    assert code not in [f.code for f in find_in_weights(run.origins.sources)]


A, B = "    - path: a.jsonl\n", "    - path: b.jsonl\n"


def weigh(source: str, weight: float | str) -> str:
    return f"{source}      weight: {weight}\n"


@pytest.mark.parametrize(
    ("stage", "data", "code", "line", "words"),
    [
        ("sft", weigh(A, 1) + B, "weight-missing", 6, "every source"),
        ("sft", A + weigh(B, 1), "weight-missing", 4, "every source"),
        ("sft", weigh(A, 1), "no-effect", 5, "single source"),
        ("tokenizer", weigh(A, 1) + B, "weight-missing", 6, "every source"),
        ("tokenizer", weigh(A, 1), "no-effect", 5, "single source"),
        ("sft", A + "  eval_sources:\n" + weigh(B, 1), "no-effect", 7, "evaluate"),
        ("sft", A + B + "  max_repetition: 2\n", "no-effect", 6, "weight"),
        ("sft", weigh(A, 1) + weigh(B, 1) + "  max_repetition: 0.5\n", "out-of-range", 8, "at least 1"),
        ("sft", weigh(A, 0) + weigh(B, 1), "out-of-range", 5, "above 0"),
        ("sft", weigh(A, ".inf") + weigh(B, 1), "bad-value", 5, "finite"),
    ],
)
def test_weights_without_a_meaning_are_refused_by_line(tmp_path, stage, data, code, line, words):
    rest = {"sft": "model: {model_name_or_path: m}\ntrain: {output_dir: o}\n"}
    rest["tokenizer"] = "tokenizer: {output_dir: o, vocab_size: 500}\n"
    path = tmp_path / "recipe.yaml"
    path.write_text(f"stage: {stage}\ndata:\n  sources:\n{data}{rest[stage]}")
    found = check(str(path), upto=1).findings
    (ours,) = [finding for finding in found if finding.code == code]
    assert ours.where.endswith(f":{line}") and words in str(ours) and ours.severity == "error"
