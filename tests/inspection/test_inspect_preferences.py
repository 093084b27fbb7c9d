"""`lifecycle inspect` on dpo, kto, reward and ppo: what it shows is what the trainer gets."""

from inspected import ids_in, seen, summary
from preference_runs import message, pairs, thumbs, write_recipe
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from lifecycle_recipes.inspection.terminal import text


def test_dpo_shows_both_replies_after_their_common_prompt(tmp_path, tiny_model_dir, tiny_tokenizer):
    rows = pairs(12)
    rows[3]["rejected"] = message("who knows, who cares, " * 12)
    path = write_recipe(tmp_path, "dpo", rows, tiny_model_dir, train={"max_length": 96})
    inspection, _, _ = seen(path, rows=12)
    (cut,) = [row for row in inspection.rows if row.where == f"{tmp_path}/train.jsonl:4"]
    for row in inspection.rows:
        number = int(row.where.rpartition(":")[2]) - 1
        for part in row.parts:
            prompt = tiny_tokenizer.apply_chat_template(
                rows[number]["prompt"], add_generation_prompt=True, return_dict=False
            )
            whole = tiny_tokenizer.apply_chat_template(
                rows[number]["prompt"] + rows[number][part.title], return_dict=False
            )
            assert ids_in(part, "masked") == prompt and ids_in(part, "trained") == whole[len(prompt) : 96]
            assert ids_in(part, "cut") == whole[96:]
    assert "truncated" in cut.parts[1].facts and "truncated" not in cut.parts[0].facts
    found = summary(inspection)
    assert "1 truncated" in found["rows"] and "train.jsonl: 12 of 12 rows" in found["sources"]
    assert "chosen: shortest" in found["lengths"]
    assert "supervised at the end of 23 of 24" in found["end-of-turn token"]
    beside = text(inspection, colours=False, width=120).split("=== ")[2].splitlines()
    assert "user" in beside[1] and " | " not in beside[1]
    assert any("chosen: " in line and " | rejected: " in line for line in beside)
    assert all(len(line) <= 120 for line in beside)
    narrow = text(inspection, colours=False, width=60)
    assert "-- chosen: " in narrow and "-- rejected: " in narrow and " | " not in narrow


def test_dpo_that_keeps_the_end_shows_what_the_front_lost(tmp_path, tiny_model_dir):
    train = {"max_length": 24, "truncation_mode": "keep_end"}
    path = write_recipe(tmp_path, "dpo", pairs(9), tiny_model_dir, train=train)
    part = seen(path, rows=1)[0].rows[0].parts[0]
    assert part.pieces[0].state == "cut" and part.pieces[-1].state == "trained"
    assert len(ids_in(part, "trained", "masked")) == 24


def test_kto_shows_label_reply_and_the_twin_for_the_kl(tmp_path, tiny_model_dir):
    path = write_recipe(tmp_path, "kto", thumbs(), tiny_model_dir)
    inspection, trainer, _ = seen(path)
    for row in inspection.rows:
        number = int(row.where.rpartition(":")[2]) - 1
        assert row.note == f"label: {'good' if thumbs()[number]['label'] else 'bad'}"
        reply, twin = row.parts
        assert ids_in(reply, "trained") and not ids_in(twin, "trained", "cut")
        assert twin.title == "for the KL" and "no gradient" in twin.facts
    found = summary(inspection)
    tokens = sum(len(r["prompt_ids"] + r["completion_ids"]) for r in trainer.train_dataset)
    assert found["tokens"].startswith(f"{tokens:,} per epoch") and "12 bad, 12 good" in found["rows"]


def test_reward_names_the_scored_token_and_the_pairs_that_are_gone(tmp_path, tiny_model_dir):
    rows = pairs(12)
    rows[5]["chosen"] = message("yes " * 60)
    rows[7]["rejected"] = rows[7]["chosen"]
    path = write_recipe(tmp_path, "reward", rows, tiny_model_dir, train={"max_length": 64})
    inspection, _, _ = seen(path, rows=10)
    for row in inspection.rows:
        for part in row.parts:
            assert [p.state for p in part.pieces] == ["masked"] * (len(part.pieces) - 1) + ["scored"]
            assert part.pieces[-1].text == "<|im_end|>" and part.pieces[-1].special
    found = summary(inspection)
    assert "dropped: " in found["rows"] and "train.jsonl:6 (" in found["rows"]
    assert "chosen equals rejected" in found["rows"] and "train.jsonl:8" not in found["rows"]
    assert "10 of 12 rows" in found["sources"]
    assert "scored at the end of 20 of 20" in found["end-of-turn token"]


def test_ppo_shows_prompts_and_says_what_is_sampled(tmp_path, tiny_model_dir):
    rows = [{"prompt": row["prompt"]} for row in pairs(16)]
    judge = AutoModelForSequenceClassification.from_pretrained(tiny_model_dir, num_labels=1)
    judge.save_pretrained(tmp_path / "reward")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "reward")
    reward = {"model_name_or_path": str(tmp_path / "reward")}
    train = {"response_length": 8, "num_mini_batches": 1, "num_sample_generations": 0}
    path = write_recipe(tmp_path, "ppo", rows, tiny_model_dir, reward=reward, train=train)
    inspection, _, _ = seen(path)
    assert (
        inspection.rows[0].parts[0].pieces[-1].text == "\n" and inspection.rows[0].parts[0].title == "prompt"
    )
    assert not ids_in(inspection.rows[0].parts[0], "trained")
    found = summary(inspection)
    assert "replies of up to 8 tokens are sampled" in found["tokens"]
    assert found["end-of-turn token"] == "<|im_end|>: sampled replies stop at it"
    assert "2 updates, 1.00 epochs\nglobal batch 8 rows" in found["steps"]
