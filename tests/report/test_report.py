"""The card over records, and talking to a saved run."""

import json

import pytest
from fake_runs import write_run

from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.report.card import card


def rows(text: str) -> dict[str, dict[str, str]]:
    """Run name -> {heading: cell}, read back from the table."""
    lines = [
        [c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


@pytest.fixture
def life(tmp_path):
    """A base model, an SFT model that keeps its gate, a PPO model that does not, and a run that failed."""
    samples = [{"prompt": f"prompt {i}", "reply": f"base reply {i}"} for i in range(4)]
    better = [s | {"reply": s["reply"].replace("base", "sft") + "\nand more"} for s in samples]
    lost = {"prompt": [{"role": "user", "content": "only ppo"}], "reply": "x"}
    base = {"desk_wiki.bits_per_byte": 1.23456, "desk_facts.acc": 0.95}
    sft = {"desk_wiki.bits_per_byte": 1.3, "desk_contract.kept": 0.91, "desk_contract.stops": 1.0}
    sft |= {"desk_answers.correct": 0.75, "tokens_per_second": 12345.6}
    ppo = {"rubric": 0.9, "rubric_win_rate": 0.7, "reward": 1.5, "kl": 0.05, "reward_against": 1.0}
    write_run(tmp_path / "03-pretrain", base, samples=samples, peak_memory_gb=1.26)
    write_run(tmp_path / "04-sft", sft, samples=better, gate=["desk_contract.kept >= 0.9"])
    write_run(tmp_path / "05-reward", {"pair_accuracy": "nan"}, "failed: [non-finite] loss is nan at step 3")
    write_run(tmp_path / "06-ppo", ppo, samples=[lost, *better], gate=["kl < 0.01"])
    write_run(tmp_path / "04-sft.replaced-1", {"desk_contract.kept": 0.1})
    write_run(tmp_path / "07-dpo", {}, "stopped")
    write_run(tmp_path / "08-kto", {}, "running", process={"host": "gone", "pid": 1})
    return tmp_path


def test_a_row_per_run_and_a_column_per_measure(life):
    table = rows(card([str(life)]))
    assert list(table) == ["03-pretrain", "04-sft", "05-reward", "06-ppo", "07-dpo", "08-kto"]
    assert table["03-pretrain"]["bits/byte"] == "1.235"
    assert table["03-pretrain"]["facts"] == "0.950"
    assert table["03-pretrain"]["contract"] == "-"
    assert table["03-pretrain"]["peak GB"] == "1.3"
    sft = table["04-sft"]
    cells = ("contract", "stops", "answers", "tokens/s", "wall s", "gate")
    assert [sft[c] for c in cells] == ["0.910", "1.000", "0.750", "12,346", "61", "pass"]
    ppo = table["06-ppo"]
    cells = ("reward", "rubric", "win rate vs SFT", "KL", "gate")
    assert [ppo[c] for c in cells] == ["1.500", "0.900", "0.700", "0.050", "FAIL kl < 0.01"]
    assert table["05-reward"]["pair acc"] == "nan"
    assert [table[name]["gate"] for name in ("03-pretrain", "05-reward", "07-dpo")] == ["-", "-", "-"]
    assert [table[name]["status"] for name in ("05-reward", "07-dpo", "08-kto")] == [
        "failed",
        "stopped",
        "running",
    ]


def test_what_ended_a_run_is_said_in_full(life):
    text, record = card([str(life)]), json.loads((life / "05-reward/run.json").read_text())
    assert f"05-reward: {record['status']}" in text
    assert "07-dpo: stopped" in text


def test_three_prompts_with_a_reply_of_each_model(life):
    text = card([str(life)])
    assert [f"### prompt {i}" in text for i in range(4)] == [True, True, True, False]
    assert "only ppo" not in text  # prompts that all models answered come first
    block = text.split("### prompt 1")[1].split("###")[0]
    assert block.splitlines() == [
        "",
        "",
        "  03-pretrain  base reply 1",
        "  04-sft       sft reply 1",
        "               and more",
        "  06-ppo       sft reply 1",
        "               and more",
        "",
    ]


def test_other_tasks_have_columns_too(tmp_path):
    write_run(tmp_path / "a", {"law.bits_per_byte": 1, "code.bits_per_byte": 2.0, "law_facts.acc": 0.5})
    write_run(tmp_path / "nested" / "b", {"law.bits_per_byte": 3})
    table = rows(card([str(tmp_path)]))
    assert (table["a"]["bits/byte law"], table["a"]["bits/byte code"], table["a"]["facts"]) == (
        "1.000",
        "2.000",
        "0.500",
    )
    assert (table["nested/b"]["bits/byte law"], table["nested/b"]["bits/byte code"]) == ("3.000", "-")
    assert "KL" not in table["a"]  # nobody measured it


def test_bits_per_byte_of_the_trainer_stand_in_for_a_task(tmp_path):
    write_run(tmp_path / "a", {"bits_per_byte": 1.5})
    assert rows(card([str(tmp_path)]))["a"]["bits/byte"] == "1.500"
    write_run(tmp_path / "a", {"bits_per_byte": 1.5, "wiki.bits_per_byte": 1.25})
    assert rows(card([str(tmp_path)]))["a"]["bits/byte"] == "1.250"


def test_the_main_measures_those_of_gates_and_those_of_tasks_have_columns(tmp_path):
    dpo = {"eval_loss": 0.5, "eval_rewards/accuracies": 0.8, "eval_rewards/margins": 1.25, "train_loss": 0.1}
    write_run(tmp_path / "dpo", dpo, gate=["train_loss < 0.01", "eval_loss < 1", "eval_loss > 0.7"])
    write_run(tmp_path / "sft", {"gsm8k_local.exact_match": 0.25, "perplexity": 3.0, "steps": 7})
    table = rows(card([str(tmp_path)]))
    heads = (
        "eval loss",
        "eval accuracy",
        "eval margin",
        "train_loss",
        "gsm8k_local.exact_match",
        "perplexity",
    )
    assert [table["dpo"][head] for head in heads] == ["0.500", "0.800", "1.250", "0.100", "-", "-"]
    assert [table["sft"][head] for head in heads] == ["-", "-", "-", "-", "0.250", "3.000"]
    assert table["dpo"]["gate"] == "FAIL train_loss < 0.01; eval_loss > 0.7"
    assert not {"steps", "eval_loss", "KL"} & set(table["sft"])


def test_a_task_of_many_parts_does_not_fill_the_card(tmp_path):
    parts = {f"mmlu_{i:02}.acc": 0.5 for i in range(12)}
    write_run(tmp_path / "a", parts, gate=["mmlu_11.acc > 0.4"])
    text = card([str(tmp_path)])
    shown = [head for head in rows(text)["a"] if head.startswith("mmlu_")]
    assert shown == ["mmlu_11.acc", *sorted(parts)[:8]]
    assert "3 more metrics of tasks are in run.json: mmlu_08.acc, " in text


def test_runs_that_were_refused_before_they_began_are_left_out(tmp_path):
    write_run(tmp_path / "a", {"eval_loss": 1})
    write_run(tmp_path / "b", status="failed: [eval-overlap] rows", refused=True)
    text = card([str(tmp_path)])
    assert list(rows(text)) == ["a"] and "eval-overlap" not in text
    with pytest.raises(Refusal, match="no-runs"):
        card([str(tmp_path / "b")])


def test_globs_single_runs_and_unreadable_records(life):
    assert list(rows(card([str(life / "0[34]-*")]))) == ["03-pretrain", "04-sft"]
    assert list(rows(card([str(life / "04-sft")]))) == ["04-sft"]
    (life / "04-sft" / "run.json").write_text("{")
    assert "04-sft: unreadable" in card([str(life)])


def test_without_runs_it_says_so(tmp_path):
    with pytest.raises(Refusal, match="no-runs"):
        card([str(tmp_path)])
