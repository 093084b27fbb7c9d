"""What the cards of a push say, read back with huggingface_hub and datasets."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from curated import curate
from hub_server import Repo
from huggingface_hub import DatasetCard, ModelCard, parse_eval_result_entries
from repository import ROOT

from lifecycle_recipes.publish.data_card import languages, size_category
from lifecycle_recipes.publish.results import own_metrics

BENCHMARK = {"name": "Grade school maths", "tasks": [{"id": "gsm8k", "config": "main", "split": "test"}]}


def edit(run: Path, **fields) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | fields))


def pushed(hub, name: str = "README.md") -> str:
    return hub.repos["me/desk"].branches["main"][name].decode()


def with_benchmark(hub, benchmark: dict, name: str = "openai/gsm8k") -> None:
    hub.repos[name] = Repo(private=False)
    hub.repos[name].branches["main"]["eval.yaml"] = yaml.safe_dump(benchmark).encode()


def measured(run: Path, **evaluation) -> None:
    """A run that measured lm-eval's gsm8k."""
    metrics = {"gsm8k.exact_match.strict-match": 0.25, "gsm8k.exact_match.flexible-extract": 0.5}
    edit(
        run,
        metrics={"task.acc": 0.9, "eval_loss": 1.0} | metrics,
        settings={"evaluate": {"tasks": ["gsm8k"]}},
        evaluation={"chat_template": True, "limit": None} | evaluation,
        started="2026-11-27T10:00:00+00:00",
        versions={"lm_eval": "0.4.13"},
    )


def test_a_benchmark_of_the_hub_gets_an_entry_that_the_hub_can_read(hub, run, push):
    with_benchmark(hub, BENCHMARK)
    measured(run)
    assert push(run, "--license", "mit").returncode == 0
    (entry,) = parse_eval_result_entries(yaml.safe_load(pushed(hub, ".eval_results/lifecycle.yaml")))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("openai/gsm8k", "gsm8k", 0.25)
    assert entry.date == "2026-11-27T10:00:00+00:00" and entry.source_url is None
    assert "lm-eval 0.4.13 gsm8k, exact_match.strict-match, with chat template" in entry.notes
    card = ModelCard(pushed(hub))
    found = {
        (r.dataset_type, r.dataset_config, r.metric_name, r.metric_value) for r in card.data.eval_results
    }
    assert found == {
        ("openai/gsm8k", "main", "gsm8k.exact_match.strict-match", 0.25),
        ("openai/gsm8k", "main", "gsm8k.exact_match.flexible-extract", 0.5),
    }
    assert "Not in `.eval_results/`" not in card.text


@pytest.mark.parametrize(
    ("tasks", "limit"),
    [
        ([{"id": "socratic", "config": "socratic", "split": "test"}], None),
        ([{"id": "train", "config": "main", "split": "train"}], None),
        ([{"id": "a", "config": "main", "split": "test"}, {"id": "b", "config": "main"}], None),
        (BENCHMARK["tasks"], 100),
        ("nonsense", None),
        (None, None),
    ],
    ids=["other configuration", "other split", "two tasks", "only part", "unreadable", "no benchmark"],
)
def test_what_a_benchmark_does_not_measure_gets_no_entry(hub, run, push, tasks, limit):
    if tasks is not None:
        with_benchmark(hub, {"tasks": tasks})
    measured(run, limit=limit)
    assert push(run, "--license", "mit").returncode == 0
    assert not [name for name in hub.repos["me/desk"].branches["main"] if "eval_results" in name]
    card = ModelCard(pushed(hub))
    assert (
        len(card.data.eval_results) == 2
        and "none is the one complete result of a benchmark of the Hub: gsm8k" in card.text
    )
    assert (limit is not None) == ("first 100 documents only" in card.text)


def test_two_tasks_on_one_benchmark_are_no_result_of_it(hub, run, push):
    with_benchmark(hub, BENCHMARK)
    measured(run)
    metrics = {"gsm8k.exact_match.strict-match": 0.25, "gsm8k_cot.exact_match.strict-match": 0.5}
    edit(run, metrics={"task.acc": 0.9} | metrics, settings={"evaluate": {"tasks": ["gsm8k", "gsm8k_cot"]}})
    assert push(run, "--license", "mit").returncode == 0
    assert not [name for name in hub.repos["me/desk"].branches["main"] if "eval_results" in name]
    assert {r.metric_name for r in ModelCard(pushed(hub)).data.eval_results} == metrics.keys()


def test_the_subjects_of_a_benchmark_are_no_results_of_it_and_their_group_is_in_the_card(hub, run, push):
    tasks = [{"id": "mmlu_pro", "config": "default", "split": "test"}]
    with_benchmark(hub, {"tasks": tasks}, "TIGER-Lab/MMLU-Pro")
    measured(run)
    metrics = {f"mmlu_pro{subject}.exact_match.custom-extract": 0.5 for subject in ("", "_law", "_math")}
    for names in (["mmlu_pro"], ["mmlu_pro_law"]):
        edit(run, metrics={"task.acc": 0.9} | metrics, settings={"evaluate": {"tasks": names}})
        assert push(run, "--license", "mit").returncode == 0
        assert not [name for name in hub.repos["me/desk"].branches["main"] if "eval_results" in name]
    edit(run, settings={"evaluate": {"tasks": ["mmlu_pro"]}})
    assert push(run, "--license", "mit").returncode == 0
    results = {r.metric_name: r for r in ModelCard(pushed(hub)).data.eval_results}
    assert results.keys() == metrics.keys()
    assert {r.dataset_type for r in results.values()} == {"TIGER-Lab/MMLU-Pro"}


def test_a_private_task_on_the_data_of_a_benchmark_is_no_result_of_it(hub, run, push, tmp_path):
    with_benchmark(hub, BENCHMARK)
    measured(run)
    task = {"task": "gsm8k", "dataset_path": "openai/gsm8k", "dataset_name": "main", "test_split": "test"}
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mine.yaml").write_text(yaml.safe_dump(task))
    edit(run, settings={"evaluate": {"tasks": ["gsm8k"], "include_path": str(tmp_path / "tasks")}})
    assert push(run, "--license", "mit").returncode == 0
    assert not [name for name in hub.repos["me/desk"].branches["main"] if "eval_results" in name]
    assert len(ModelCard(pushed(hub)).data.eval_results) == 2


def test_a_pruned_copy_has_its_own_figures_only():
    metrics = {"pruned-97.agreement": 0.5, "pruned-97.5.agreement": 0.4, "merged.agreement": 1.0, "x": 1.0}
    record = {"metrics": metrics, "export": {"parity": {"merged": {}, "pruned-97": {}, "pruned-97.5": {}}}}
    assert own_metrics(record, "pruned-97") == {"agreement": 0.5}
    assert own_metrics(record, "pruned-97.5") == {"agreement": 0.4}
    assert own_metrics(record, None) == {"merged.agreement": 1.0}


def test_local_tasks_are_results_without_an_entry_for_a_leaderboard(hub, run, push):
    metrics = {"desk_facts.acc": 0.75, "desk_contract.kept": 0.5}
    tasks = {"tasks": ["desk_facts", "desk_contract"], "include_path": str(ROOT / "data/desk/tasks")}
    edit(run, metrics={"task.acc": 0.9} | metrics, settings={"evaluate": tasks})
    assert push(run, "--license", "mit").returncode == 0
    results = {r.metric_name: r for r in ModelCard(pushed(hub)).data.eval_results}
    assert {name: r.metric_value for name, r in results.items()} == metrics
    assert {r.dataset_name for r in results.values()} == {
        "desk_facts (not on the Hub)",
        "desk_contract (not on the Hub)",
    }
    assert not [name for name in hub.repos["me/desk"].branches["main"] if "eval_results" in name]


def test_the_facts_of_the_model_are_those_of_its_files(hub, run, push):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    assert push(run, "--license", "mit").returncode == 0
    text = pushed(hub)
    assert f"| parameters | {model.num_parameters():,} |" in text and "| precision | float32 |" in text
    assert f"| context length | {model.config.max_position_embeddings:,} tokens |" in text
    line = next(line for line in text.splitlines() if line.startswith("| replies end with"))
    assert f"`{tokenizer.eos_token}`" in line
    assert 'pipeline("text-generation", "me/desk")' in text and "vllm serve me/desk" in text
    assert "llama-cli" not in text and "kWh" not in text


def test_energy_is_time_and_a_stated_power_and_nothing_without_it(hub, run, push, tmp_path):
    gpu = {"hardware": {"gpus": ["Some GPU"] * 8}, "layout": {"processes": 4, "device": "cuda"}}
    edit(run, wall_seconds=1800.0, **gpu)
    edit(tmp_path / "01-parent", wall_seconds=36000.0, hardware={"cpu": "Some CPU", "gpus": []})
    assert "kWh" not in push(run, "--license", "mit", "--dry-run").stdout
    text = push(run, "--license", "mit", "--dry-run", "--power-watts", "500").stdout
    assert (
        "Energy, estimated: 1 kWh" in text and "Not counted, on other hardware: 01-parent (Some CPU)" in text
    )
    assert "- 4 x Some GPU: 07-dpo\n- 1 x Some CPU: 01-parent" in text
    for power in ("0", "-5", "nan", "inf"):
        refused = push(run, "--license", "mit", "--dry-run", "--power-watts", power)
        assert refused.returncode == 2 and "[bad-value]" in refused.stderr


def test_an_adapter_on_a_model_of_the_hub_says_how_it_is_loaded(hub, run, push):
    (run / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    (run / "model.safetensors").rename(run / "adapter_model.safetensors")
    edit(run, settings={"model": {"model_name_or_path": "org/base"}}, parents={})
    assert push(run, "--license", "mit").returncode == 0
    card = ModelCard(pushed(hub))
    assert card.data.library_name == "peft" and card.data.base_model == ["org/base"]
    assert 'AutoPeftModelForCausalLM.from_pretrained("me/desk")' in card.text
    assert "vllm serve org/base --enable-lora --lora-modules desk=me/desk" in card.text


@pytest.mark.parametrize(
    ("form", "needs"),
    [
        ("int8", "pip install bitsandbytes accelerate"),
        ("torchao-int8", "pip install torchao"),
        ("gptq", "pip install gptqmodel optimum`; on a machine with two cores, set `GPTQMODEL_CPU_WORKERS=2"),
        ("awq", "pip install gptqmodel`; on a machine with two cores, set `GPTQMODEL_CPU_WORKERS=2"),
    ],
)
def test_what_loads_a_form_is_named(run, push, form, needs):
    shutil.copytree(run, run / form, ignore=shutil.ignore_patterns("run.json", "checkpoint-*"))
    export = {"of_stage": "dpo", "adapters_merged": False, "dtype": "float32", "bytes": {"merged": 2e6}}
    edit(run, stage="export", export=export | {"parity": {"merged": {}, form: {}}})
    assert f"(`{needs}`)" in push(run, "--license", "mit", "--dry-run", "--form", form).stdout


def test_a_tokenizer_with_a_resized_model_is_a_model(run, push, export):
    """Chat and export take it as one, too."""
    resized = {"from": "org/base", "of_stage": None, "new_rows": 6}
    edit(
        run,
        stage="tokenizer",
        parents={},
        resized=resized,
        settings={"tokenizer": {"resize_model": "org/base"}},
    )
    card = ModelCard(push(run, "--license", "mit", "--dry-run").stdout.split("\n\n", 1)[1])
    assert "A tokenizer of" not in card.text and "rows for 6 new tokens, not trained yet" in card.text
    assert "starting from org/base" in card.text and card.data.base_model == ["org/base"]
    assert card.data.pipeline_tag == "text-generation" and "| parameters |" in card.text
    assert 'pipeline("text-generation", "me/desk")' in card.text and "training stage" not in card.text
    edit(run, gate=[])
    status, _, record = export(run)
    assert status == 0 and record["status"] == "done"


def test_a_tokenizer_is_none(run, push):
    edit(run, stage="tokenizer", metrics={"task.acc": 0.9, "vocab_size": 300})
    (run / "model.safetensors").unlink()
    text = push(run, "--license", "mit", "--dry-run").stdout
    assert "A tokenizer of 300 tokens" in text and "AutoTokenizer" in text and "pipeline" not in text


def test_a_reward_model_scores_and_does_not_reply(hub, run, push, tiny_reward_dir, tmp_path):
    reward = shutil.copytree(tiny_reward_dir, tmp_path / "05-reward")
    shutil.copy(run / "run.json", reward)
    edit(reward, stage="reward", parents={})
    text = push(reward, "--license", "mit", "--dry-run").stdout
    assert "| parameters |" in text and "replies end with" not in text and "vllm" not in text
    assert (
        'pipeline("text-classification", "me/desk")' in text and "pipeline_tag: text-classification" in text
    )


def test_a_gguf_says_what_was_not_run(hub, run, push):
    pytest.importorskip("gguf")
    from lifecycle_recipes.publish.gguf_writing import write_gguf

    (run / "gguf-q8_0").mkdir()
    write_gguf(str(run), run / "gguf-q8_0", "Q8_0")
    export = {"of_stage": "dpo", "adapters_merged": False, "dtype": "float32", "bytes": {"merged": 2e6}}
    export |= {"parity": {"merged": {}, "gguf-q8_0": {}}}
    edit(run, stage="export", export=export)
    text = push(run, "--license", "mit", "--dry-run", "--form", "gguf-q8_0", "--branch", "v1").stdout
    assert (
        "hf download me/desk --revision v1 model.gguf Modelfile" in text and "llama-cli -m model.gguf" in text
    )
    assert "| precision | gguf-q8_0 |" in text and "vllm" not in text
    assert "llama.cpp and Ollama were not run on these files" in text


# The licence


def curated(folder: Path, licence: str | None) -> Path:
    rows = folder / "rows.jsonl"
    folder.mkdir()
    rows.write_text(
        "".join(json.dumps({"text": f"Service {i} listens on {8000 + i}."}) + "\n" for i in range(40))
    )
    source = {"path": str(rows)} | ({"license": licence} if licence else {})
    return curate(folder, [source], held_out={"fraction": 0.25}).directory


def from_base_and_rows(run: Path, rows: Path) -> None:
    """The run as one that started from org/base and trained on curated rows."""
    settings = {
        "model": {"model_name_or_path": "org/base"},
        "data": {"sources": [{"path": str(rows / "train.jsonl")}]},
    }
    edit(run, settings=settings, parents={"data": {"path": str(rows), "relative": "."}})


def with_base(hub, licence: str | None) -> None:
    hub.repos["org/base"] = Repo(private=False)
    text = f"---\nlicense: {licence}\n---\n" if licence else "# base\n"
    hub.repos["org/base"].branches["main"]["README.md"] = text.encode()


def test_a_licence_that_everything_carries_is_taken(hub, run, push, tmp_path):
    rows = curated(tmp_path / "curation", "Apache-2.0")
    with_base(hub, "apache-2.0")
    from_base_and_rows(run, rows)
    done = push(run)
    assert done.returncode == 0, done.stderr
    assert ModelCard(pushed(hub)).data.license == "apache-2.0"
    assert "Licence: apache-2.0, which everything that this was made from carries." in pushed(hub)


@pytest.mark.parametrize(
    ("of_rows", "of_base"),
    [("mit", "apache-2.0"), (None, "apache-2.0"), ("apache-2.0", None), ("other", "other")],
)
def test_a_licence_is_never_guessed(hub, run, push, tmp_path, of_rows, of_base):
    rows = curated(tmp_path / "curation", of_rows)
    with_base(hub, of_base)
    from_base_and_rows(run, rows)
    done = push(run)
    assert done.returncode == 2 and "[license-unknown]" in done.stderr
    assert f"org/base: {of_base or 'none is known'}" in done.stderr
    assert f"rows.jsonl: {of_rows or 'none is known'}" in done.stderr and "me/desk" not in hub.repos


def test_a_file_or_parent_of_unknown_origin_leaves_the_licence_open(hub, run, push, tmp_path):
    rows = curated(tmp_path / "curation", "apache-2.0")
    with_base(hub, "apache-2.0")
    from_base_and_rows(run, rows)
    record = json.loads((run / "run.json").read_text())
    more = tmp_path / "more.jsonl"
    more.write_text("{}\n")
    record["settings"]["data"]["sources"].append({"path": str(more)})
    edit(run, settings=record["settings"])
    done = push(run)
    assert done.returncode == 2 and "more.jsonl: none is known" in done.stderr
    from_base_and_rows(run, rows)
    shutil.rmtree(rows)
    done = push(run)
    assert done.returncode == 2 and "[license-unknown]" in done.stderr


# Rows


def test_curated_rows_are_a_data_set_that_loads_with_its_splits(hub, push, tmp_path):
    from datasets import load_dataset

    run = curated(tmp_path / "curation", "cc-by-4.0")
    assert (run / "left_out.jsonl").exists() or (run / "edits.jsonl").exists()
    done = push(run)
    assert done.returncode == 0, done.stderr
    files = hub.repos["me/desk"].branches["main"]
    assert {"train.jsonl", "held_out.jsonl", "ledger.json"} <= files.keys()
    assert not {"left_out.jsonl", "edits.jsonl"} & files.keys()
    assert b'"type":"dataset"' in b"".join(hub.received)
    card = DatasetCard(pushed(hub))
    assert card.data.license == "cc-by-4.0" and card.data.size_categories == ["n<1K"]
    assert "base_model" not in card.data.to_dict() and "| cc-by-4.0 | 40 |" in card.text
    assert "## Ledger" in card.text and "| held-out |" in card.text
    pulled = tmp_path / "pulled"
    for name, content in files.items():
        (pulled / name).parent.mkdir(parents=True, exist_ok=True)
        (pulled / name).write_bytes(content)
    rows = load_dataset(str(pulled), cache_dir=str(tmp_path / "datasets"))
    counts = {
        split: len((run / f"{split}.jsonl").read_text().splitlines()) for split in ("train", "held_out")
    }
    assert {split: len(part) for split, part in rows.items()} == counts and counts["held_out"]


def test_the_size_and_the_languages_of_a_data_set():
    assert [size_category(n) for n in (0, 999, 1000, 9_999, 10_000, 10**6, 10**12)] == [
        "n<1K",
        "n<1K",
        "1K<n<10K",
        "1K<n<10K",
        "10K<n<100K",
        "1M<n<10M",
        "n>1T",
    ]
    shares = {"share.en": 0.6, "share.de": 0.3, "share.code": 0.09, "share.fr": 0.005, "rows_out": 3}
    assert languages(shares) == ["en", "de"]
