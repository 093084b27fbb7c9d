"""The sweep of the tokenizer stage: other vocabulary sizes, measured on the same text."""

import json
from collections import Counter

import pytest
from transformers import AutoTokenizer

from lifecycle_recipes.evals.tokenizer import measure_tokenizer
from lifecycle_recipes.evals.vocabulary_sweep import count_words, sweep
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.models.new_tokenizer import (
    TokenizerConfig,
    build_sizes,
    build_tokenizer,
    complete,
    cut_merges,
    train_tokenizer,
)
from lifecycle_recipes.models.special_tokens import SPECIAL_TOKENS
from lifecycle_recipes.report.card import card
from lifecycle_recipes.report.sweep import sweep_plot, sweep_table, sweep_text
from lifecycle_recipes.stages.tokenizer import main

SIZES = [270, 300, 340, 420]


@pytest.fixture(scope="module")
def texts(tiny_texts, repo_root) -> list[str]:
    """Prose, and code of this package."""
    code = sorted((repo_root / "src/lifecycle_recipes/models").glob("*.py"))
    return [*tiny_texts, *(file.read_text() for file in code)]


@pytest.fixture(scope="module")
def config(repo_root) -> TokenizerConfig:
    return TokenizerConfig(
        "", 300, chat_template=str(repo_root / "chat_templates/chatml.jinja"), sweep=[270, 340, 420]
    )


def saved(tokenizer, folder) -> bytes:
    tokenizer.save_pretrained(folder)
    return (folder / "tokenizer.json").read_bytes()


def test_a_smaller_bpe_vocabulary_is_the_beginning_of_a_larger_one(tmp_path, texts, config):
    """Training each size gives the same file, byte for byte, as cutting the merges of the largest one."""
    tokenizer, sizes = build_sizes(texts, config)
    assert list(sizes) == SIZES
    for size in SIZES:
        alone = build_tokenizer(texts, TokenizerConfig("", size, chat_template=config.chat_template))
        assert saved(complete(sizes[size], config), tmp_path / f"cut{size}") == saved(
            alone, tmp_path / f"own{size}"
        )
    assert saved(tokenizer, tmp_path / "saved") == (tmp_path / "own300/tokenizer.json").read_bytes()


def test_a_text_that_is_used_up_and_a_size_without_merges(texts, config):
    largest = train_tokenizer(["ab ab cd"], config, 5_000)
    assert largest.get_vocab_size() < 270
    assert cut_merges(largest, 5_000).to_str() == largest.to_str()
    assert json.loads(cut_merges(largest, 260).to_str())["model"]["merges"] == []


def test_a_vocabulary_whose_order_does_not_tell_is_not_cut(texts, config):
    from tokenizers import Tokenizer

    state = json.loads(train_tokenizer(texts, config, 300).to_str())
    merges = state["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    assert cut_merges(Tokenizer.from_str(json.dumps(state)), 280) is None


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_measures_are_those_of_encoding_everything(texts, config, kind):
    config = TokenizerConfig("", 300, kind, chat_template=config.chat_template, sweep=[340])
    _, sizes = build_sizes(texts, config)
    odd = ["naïve ☃ 😀 <|im_start|>user\r\n\tx = 12345<|im_end|>", "plain words only", ""]
    groups = {("a.jsonl", "en"): texts[:9], ("a.jsonl", "de"): odd[:1], ("b.jsonl", ""): odd[1:]}
    rows = sweep(sizes, texts, groups, config.special_tokens, 64)
    for tokenizer, row in zip(sizes.values(), rows, strict=True):
        whole = complete(tokenizer, config)
        held_out = [text for group in groups.values() for text in group]
        measured = measure_tokenizer(whole, held_out)
        assert row["bytes_per_token"] == pytest.approx(measured["bytes_per_token"])
        assert row["unknown_rate"] == measured["unknown_rate"] == 0
        assert row["vocab_size"] == len(whole) and row["embedding_parameters"] == len(whole) * 64
        per_source = measure_tokenizer(whole, [*texts[:9], odd[0]])["bytes_per_token"]
        assert row["sources"]["a.jsonl"] == pytest.approx(per_source) and set(row["sources"]) == {
            "a.jsonl",
            "b.jsonl",
        }
        assert row["languages"] == {
            "de": pytest.approx(measure_tokenizer(whole, odd[:1])["bytes_per_token"]),
            "en": pytest.approx(measure_tokenizer(whole, texts[:9])["bytes_per_token"]),
        }
        uses = Counter(i for ids in whole(texts, add_special_tokens=False)["input_ids"] for i in ids)
        learnt = set(range(len(whole))) - {0, 1, 2, 3}
        assert row["rare_tokens"] == pytest.approx(sum(uses[i] < 10 for i in learnt) / len(learnt))


def test_control_tokens_in_a_text_are_counted_whole(config, texts):
    tokenizer = train_tokenizer(texts, config, 300)
    found = count_words(tokenizer, ["a<|im_end|><|im_end|> b"], list(SPECIAL_TOKENS))
    assert found == {"a": 1, "<|im_end|>": 2, "Ġb": 1}


def test_sizes_that_the_text_does_not_fill_are_one_row(config):
    config = TokenizerConfig("", 262, chat_template=config.chat_template, sweep=[400, 500])
    _, sizes = build_sizes(["abcd abcd efg"] * 20, config)
    rows = sweep(sizes, ["abcd"], {("a", ""): ["abcd efg"]}, config.special_tokens)
    assert [row["asked"] for row in rows] == [[262], [400, 500]]
    assert f"400, 500: the text gives {rows[1]['vocab_size']} tokens, not more" in sweep_text(rows)


def test_a_sweep_size_that_is_too_small_is_refused(config):
    for sweep_sizes in ([200], [300, 259]):
        with pytest.raises(Refusal, match="vocab-too-small"):
            build_sizes(
                ["a"], TokenizerConfig("", 300, chat_template=config.chat_template, sweep=sweep_sizes)
            )


ROW = {"sources": {"a": 2.0}, "languages": {}, "unknown_rate": 0.0}
ROWS = [
    ROW | {"asked": [512], "vocab_size": 512, "bytes_per_token": 2.0, "rare_tokens": 0.25},
    ROW | {"asked": [4096], "vocab_size": 4096, "bytes_per_token": 4.0, "rare_tokens": 0.5},
]


def test_the_plot_is_drawn_from_zero():
    bars = [line.split()[1] for line in sweep_plot(ROWS).splitlines() if "#" in line]
    assert [len(bar) for bar in bars] == [20, 40, 10, 20]


def test_the_table_has_columns_for_several_sources_and_languages():
    plain = sweep_table(ROWS, 4096)
    assert "4,096 (saved)" in plain and "| a " not in plain and "embedding" not in plain
    several = [row | {"sources": {"a": 1.0, "b": 3.0}, "languages": {"de": 1.0, "en": 2.0}} for row in ROWS]
    head = [cell.strip() for cell in sweep_table(several).splitlines()[0].strip("| ").split("|")]
    assert head == ["vocabulary", "bytes/token", "a", "b", "de", "en", "rare tokens", "unknown"]


@pytest.fixture
def recipe_of(tmp_path, tiny_texts, repo_root):
    """Writes a recipe with two sources, one of which names the language of its rows."""

    def write(tokenizer: str, **options: str) -> str:
        rows = [{"text": text, "language": "en" if i % 2 else "xx"} for i, text in enumerate(tiny_texts)]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "b.txt").write_text("".join(f"Zeile {i}: Grüße aus Köln ☃\n" for i in range(40)))
        weights = [options.get(name, "") for name in ("first", "second")]
        recipe = tmp_path / "tokenizer.yaml"
        recipe.write_text(
            f"stage: tokenizer\ntokenizer:\n  output_dir: {tmp_path}/out\n"
            f"  chat_template: {repo_root}/chat_templates/chatml.jinja\n{tokenizer}"
            f"data:\n  eval_fraction: 0.25\n  sources:\n    - path: {tmp_path}/a.jsonl\n{weights[0]}"
            f"    - path: {tmp_path}/b.txt\n{weights[1]}"
        )
        return str(recipe)

    return write


def test_the_stage_prints_and_records_the_sweep_and_saves_the_size_of_the_recipe(tmp_path, recipe_of, capsys):
    main([recipe_of("  vocab_size: 300\n  sweep: [280, 350]\n  sweep_hidden_size: 32\n")])
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert [row["vocab_size"] for row in record["sweep"]] == [280, 300, 350]
    assert record["sweep"][1]["bytes_per_token"] == pytest.approx(record["metrics"]["bytes_per_token"])
    assert set(record["sweep"][0]["sources"]) == {f"{tmp_path}/a.jsonl", f"{tmp_path}/b.txt"}
    assert set(record["sweep"][0]["languages"]) == {"en", "xx"}
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 300
    text = sweep_text(record["sweep"], 300)
    assert text in printed and text in card([str(tmp_path / "out")])


def test_weights_are_shares_of_the_bytes(tmp_path, recipe_of):
    weight = "      weight: {}\n"
    main([recipe_of("  vocab_size: 300\n", first=weight.format(1), second=weight.format(1))])
    record = json.loads((tmp_path / "out/run.json").read_text())
    first, second = record["data"]["sources"]
    for source in (first, second):
        assert source["share_wanted"] == 0.5 and source["share_bytes"] == pytest.approx(0.5, abs=0.03)
    # The second source has more bytes per character, so it gets fewer characters.
    assert second["weight_in_characters"] < first["weight_in_characters"]
    assert first["bytes"] + second["bytes"] > 0 and record["data"]["left_out"] == {
        "weight": 78 - first["rows_chosen"] - second["rows_chosen"]
    }


def test_a_weight_changes_what_the_tokenizer_learns(tmp_path, recipe_of):
    def words(first: str, second: str) -> int:
        main(
            [
                recipe_of(
                    "  vocab_size: 300\n",
                    first=f"      weight: {first}\n",
                    second=f"      weight: {second}\n",
                ),
                "--replace",
            ]
        )
        return len(AutoTokenizer.from_pretrained(tmp_path / "out").encode("Grüße aus Köln ☃"))

    assert words("1", "9") < words("9", "1")


def test_a_weight_that_is_missed_is_a_warning(tmp_path, recipe_of, capsys):
    recipe = recipe_of("  vocab_size: 300\n", first="      weight: 1\n", second="      weight: 4000\n")
    main([recipe])
    record = json.loads((tmp_path / "out/run.json").read_text())
    (finding,) = [finding for finding in record["findings"] if finding["code"] == "weight-missed"]
    assert "of the training bytes" in finding["message"] and "weight-missed" in capsys.readouterr().err
    main([recipe, "--allow.weight-missed", "few rows", "--replace"])
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["allowed"] == {"weight-missed": "few rows"}
    assert not {"weight-missed", "unused-waiver"} & {finding["code"] for finding in record["findings"]}
