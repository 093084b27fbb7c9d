"""`tokenizer.extend`: new tokens for an existing tokenizer and rows for them in a model; nothing else moves."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from preference_runs import write_recipe, write_rows
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lifecycle_recipes.doctor.check import check
from lifecycle_recipes.doctor.row_level.vocabulary import pretrained_from_nothing
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.models import extension
from lifecycle_recipes.models.extension import fingerprints, resize_embeddings, save_resized
from lifecycle_recipes.models.new_tokenizer import TokenizerConfig
from lifecycle_recipes.record.gate import judge
from lifecycle_recipes.record.trained_stage import stage_of
from lifecycle_recipes.stages.tokenizer import main

NEW, SPECIAL = ["Jasper", " Rowan-9", "Größe", "日本"], ["<|call|>", "<think>"]


def llama(tokenizer, folder, tied: bool, rows: int = 0, dtype=torch.float32):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=rows or len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=["tied", "untied"])
def parent(request, tmp_path, tiny_tokenizer):
    return llama(tiny_tokenizer, tmp_path / "parent", request.param == "tied")


@pytest.fixture
def recipe_of(tmp_path, tiny_texts):
    def write(lines: str) -> str:
        rows = [*tiny_texts, "Jasper met <|call|> Rowan-9 in Größe 日本"]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
        recipe = tmp_path / "extend.yaml"
        recipe.write_text(
            f"stage: tokenizer\ntokenizer:\n  output_dir: {tmp_path}/out\n{lines}"
            f"data:\n  sources:\n    - path: {tmp_path}/a.jsonl\n"
        )
        return str(recipe)

    return write


def lines(parent, *more: str) -> str:
    given = [
        f"extend: {parent}",
        f"new_tokens: {json.dumps(NEW)}",
        f"new_special_tokens: {json.dumps(SPECIAL)}",
    ]
    return "".join(f"  {line}\n" for line in [*given, *more])


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval(), AutoTokenizer.from_pretrained(
        folder
    )


@pytest.mark.parametrize("new_rows", ["mean", "pieces"])
def test_only_the_new_rows_are_new(tmp_path, parent, recipe_of, tiny_texts, new_rows):
    main([recipe_of(lines(parent, f"resize_model: {parent}", f"new_rows: {new_rows}"))])
    (before, old), (after, new) = load(parent), load(tmp_path / "out")
    assert len(new) == len(old) + 6 == after.get_input_embeddings().weight.shape[0] == after.config.vocab_size
    # Old text has the old ids, each new token one id, and control tokens are skipped.
    assert old(tiny_texts)["input_ids"] == new(tiny_texts)["input_ids"]
    for i, token in enumerate([*NEW, *SPECIAL], start=len(old)):
        assert new(token, add_special_tokens=False)["input_ids"] == [i] and new.decode([i]) == token
    assert (
        new.decode(new("<think>a Jasper", add_special_tokens=False)["input_ids"], skip_special_tokens=True)
        == "a Jasper"
    )
    # Every weight that is not a new row is the same, bit for bit.
    one, two = before.state_dict(), after.state_dict()
    assert one.keys() == two.keys()
    tables = {name for name in one if one[name].shape[0] == len(old)}
    assert len(tables) == 2 and all(two[name].shape[0] == len(new) for name in tables)
    for name in one:
        assert torch.equal(one[name], two[name][: len(old)] if name in tables else two[name]), name
    for name in tables:
        for i in range(len(old), len(new)):
            ids = old(new.convert_ids_to_tokens(i), add_special_tokens=False)["input_ids"]
            wanted = one[name] if new_rows == "mean" else one[name][ids]
            torch.testing.assert_close(two[name][i], wanted.mean(0))
    ids = torch.tensor([old(tiny_texts[0])["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(after(ids).logits[..., : len(old)], before(ids).logits)
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["status"] == "done" and record["extended"] == {
        "from": str(parent),
        "tokens": 300,
        "new_tokens": 6,
    }
    found = record["resized"]
    assert (found["rows_before"], found["rows"], found["new_rows"]) == (300, 306, 6)
    assert found["of_stage"] is None and stage_of(str(tmp_path / "out")) is None  # a model, of no run
    assert found["tied"] == before.config.tie_word_embeddings and found["logits_difference"] < 1e-4
    assert {role: entry["path"] for role, entry in record["parents"].items()} == {
        "extended": str(parent),
        "resized": str(parent),
    }
    assert record["metrics"]["vocab_size"] == 306 and record["metrics"]["round_trip"] == 1


def test_the_mean_is_that_of_upstream(tmp_path, parent):
    ours, theirs = load(parent)[0], load(parent)[0]
    resize_embeddings(ours, 300, 310)
    theirs.resize_token_embeddings(310, mean_resizing=True)
    for mine, other in zip(extension.tables(ours), extension.tables(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


def test_the_child_of_a_resized_model_trains(tmp_path, parent, recipe_of, tiny_chat_rows):
    from lifecycle_recipes.stages import sft

    main([recipe_of(lines(parent, f"resize_model: {parent}"))])
    rows = write_rows(tmp_path / "rows.jsonl", tiny_chat_rows)
    data = {"sources": [{"path": rows}], "eval_sources": [], "eval_fraction": 0.2}
    train = {"use_cpu": True, "max_length": 128}
    child = write_recipe(tmp_path / "child", "sft", tiny_chat_rows, tmp_path / "out", data=data, train=train)
    assert not check(child).errors
    sft.main([child])


def test_a_resized_base_model_still_has_untrained_control_tokens(tmp_path, parent, recipe_of):
    record = {"schema": 1, "stage": "pretrain", "status": "done", "parents": {"tokenizer": {}}, "gate": []}
    (parent / "run.json").write_text(
        json.dumps(record | {"metrics": {"bytes_per_token": 1.0}, "identity": "x"})
    )
    gate = "gate:\n  - bytes_per_token > parent/bytes_per_token\n"
    recipe = recipe_of(lines(parent, f"resize_model: {parent}"))
    Path(recipe).write_text(Path(recipe).read_text() + gate)
    main([recipe])
    assert pretrained_from_nothing(str(tmp_path / "out"))
    assert [verdict.ok for verdict in judge(tmp_path / "out")] == [True]


def test_spare_rows_of_a_model_are_used_first_and_become_the_mean(tmp_path, tiny_tokenizer, recipe_of):
    parent = llama(tiny_tokenizer, tmp_path / "parent", False, rows=320)
    main([recipe_of(lines(parent, f"resize_model: {parent}"))])
    before, after = load(parent)[0].state_dict(), load(tmp_path / "out")[0].state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert after[name].shape[0] == 320
        torch.testing.assert_close(after[name][300:306], before[name][:300].mean(0).expand(6, -1))
        assert torch.equal(after[name][306:], before[name][306:])


def test_a_model_with_fewer_rows_than_its_tokenizer_gets_them(tmp_path, tiny_tokenizer, recipe_of):
    """What tokenizer-larger-than-embedding refuses: no new token is needed."""
    parent = llama(tiny_tokenizer, tmp_path / "parent", True, rows=290)
    main([recipe_of(f"  extend: {parent}\n  resize_model: {parent}\n")])
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert (record["resized"]["rows_before"], record["resized"]["rows"]) == (290, 300)


def test_half_precision_stays(tmp_path, tiny_tokenizer, recipe_of):
    parent = llama(tiny_tokenizer, tmp_path / "parent", False, dtype=torch.bfloat16)
    main([recipe_of(lines(parent, f"resize_model: {parent}"))])
    model = load(tmp_path / "out")[0]
    assert model.dtype == torch.bfloat16
    mean = load(parent)[0].lm_head.weight.float().mean(0)
    torch.testing.assert_close(model.lm_head.weight[300].float(), mean, rtol=1e-2, atol=1e-3)


def test_a_tokenizer_of_another_family_is_extended(tmp_path, recipe_of):
    """Llama 2's kind: spaces as letters, bytes only for unknown characters, a space before every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special[:3], show_progress=False)
    made.train_from_iterator(["a port in red and green, Service 7"] * 9, trainer)
    made.add_tokens([AddedToken(token, normalized=False) for token in special[3:]])
    PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(tmp_path / "old")
    main([recipe_of(lines(tmp_path / "old"))])
    old, new = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("old", "out"))
    assert len(new) == len(old) + 6 and new.convert_tokens_to_ids(" Rowan-9") == len(old) + 1


def test_without_a_model_only_the_tokenizer_is_written(tmp_path, parent, recipe_of):
    main([recipe_of(lines(parent))])
    assert len(AutoTokenizer.from_pretrained(tmp_path / "out")) == 306
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize("spoil", ["weight", "old row", "new row"])
def test_whatever_else_moves_is_refused(tmp_path, parent, tiny_tokenizer, tiny_texts, monkeypatch, spoil):
    """Each comparison sees a change that saving, or upstream's resizing, might make."""
    real = extension.resize_embeddings

    def resize(model, kept, tokens, pieces=None):
        real(model, kept, tokens, pieces)
        with torch.no_grad():
            table = model.get_input_embeddings().weight
            if spoil == "weight":
                model.model.layers[1].mlp.up_proj.weight[0, 0] += 1e-6
            else:
                table[7 if spoil == "old row" else kept] += 1e-3

    monkeypatch.setattr(extension, "resize_embeddings", resize)
    config = TokenizerConfig(
        str(tmp_path / "out"), extend=str(parent), resize_model=str(parent), new_tokens=NEW
    )
    old, new = extension.extend_tokenizer(config, tiny_texts)
    with pytest.raises(Refusal, match="extension-differs"):
        save_resized(config, old, new, tiny_texts)


def test_fingerprints_leave_out_the_new_rows_alone(parent):
    one, two = load(parent)[0], load(parent)[0]
    resize_embeddings(two, 300, 305)
    assert fingerprints(one, 300) == fingerprints(two, 300)
    assert fingerprints(one, 300) != fingerprints(two, 299)


def test_a_tokenizer_that_encodes_old_text_otherwise_is_refused(tiny_tokenizer, tiny_texts):
    """A new token inside old text, hidden from the comparison."""
    from copy import deepcopy

    new = deepcopy(tiny_tokenizer)
    new.add_tokens(["rvice 1"])
    with pytest.raises(Refusal, match="extension-differs"):
        extension.require_same_ids(tiny_tokenizer, new, [], tiny_texts)


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ('new_tokens: ["Zebra", "Zebra"]', "token-exists", "'Zebra' is listed twice"),
        ('new_special_tokens: ["<|im_end|>"]', "token-exists", "with the id 3"),
        ("vocab_size: 500", "no-effect", "tokenizer.vocab_size"),
        ("sweep: [500]", "no-effect", "tokenizer.sweep"),
        ("new_rows: pieces\n  new_tokens: [Zebra]", "no-effect", "tokenizer.new_rows"),
        ("new_tokens: []", "no-effect", "tokenizer.extend"),
        ('new_tokens: [""]', "bad-value", "empty"),
    ],
)
def test_what_has_no_meaning_is_refused(parent, recipe_of, given, code, words):
    (finding,) = check(recipe_of(f"  extend: {parent}\n  {given}\n"), upto=2).errors
    assert finding.code == code and words in finding.message and ".yaml:" in finding.where


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ("vocab_size: 300\n  new_tokens: [a]", "no-effect", "tokenizer.extend is not set"),
        ("vocab_size: 300\n  resize_model: runs/a/b", "no-effect", "tokenizer.extend is not set"),
        ("vocab_size: 300\n  sweep_hidden_size: 64", "no-effect", "tokenizer.sweep is empty"),
        ("vocab_size: 300\n  sweep: [400, 100]", "vocab-too-small", "sweep[1] 100"),
        ("vocab_size: 300\n  sweep: [0]", "out-of-range", "at least 1"),
        ("kind: bpe", "missing-key", "tokenizer.vocab_size"),
    ],
)
def test_a_new_tokenizer_needs_its_own_keys(recipe_of, given, code, words):
    found = [f for f in check(recipe_of(f"  {given}\n"), upto=1).errors if f.code != "parent-missing"]
    assert [finding.code for finding in found] == [code] and words in found[0].message


def test_an_extended_tokenizer_is_a_parent(tmp_path, parent, recipe_of):
    shutil.rmtree(parent)
    codes = {finding.code for finding in check(recipe_of(lines(parent)), upto=2).errors}
    assert codes == {"parent-missing"}
