"""Tiny models for the recipes here to start from, right ones and broken ones, and the states of a disk.

`build(root)` writes `root/build/broken/parents`: deterministic, offline, half a megabyte, made again when
this file or transformers changes. No weights are kept in the repository.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
PARENTS, RUNS = Path("build/broken/parents"), Path("build/broken/runs")
STAMP = "built_from"
DONE = {"schema": 1, "status": "done", "stage": "sft", "identity": "x", "gate": [], "metrics": {}}


def build(root: Path) -> None:
    """Write every parent, unless what is there was written by this very file."""
    target = root / PARENTS
    origin = hashlib.sha256(Path(__file__).read_bytes() + version("transformers").encode()).hexdigest()
    if (target / STAMP).is_file() and (target / STAMP).read_text() == origin:
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    save_model(target / "chat", tokenizer())
    for write in (spoil_tokenizers, spoil_templates, spoil_models, spoil_records):
        write(target)
    (target / STAMP).write_text(origin)


def tokenizer(**changes):
    """A byte-level BPE tokenizer of 300 tokens with the ChatML template; `changes` go over its settings."""
    from lifecycle_recipes.stages.tokenizer import TokenizerConfig, build_tokenizer

    texts = [json.loads(line)["text"] for line in (HERE / "right/text_train.jsonl").open(encoding="utf-8")]
    template = HERE.parents[1] / "chat_templates/chatml.jinja"
    settings = {"vocab_size": 300, "chat_template": str(template)} | changes
    return build_tokenizer(texts, TokenizerConfig(output_dir="unused", **settings))


def save_model(path: Path, tokenizer, reward: bool = False, **changes) -> None:
    """A Llama of 2 layers and width 32 with random weights; `changes` go over its config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = sizes | ids | {"vocab_size": len(tokenizer), "max_position_embeddings": 256} | changes
    torch.manual_seed(0)
    if reward:
        model = LlamaForSequenceClassification(LlamaConfig(**config, num_labels=1))
    else:
        model = LlamaForCausalLM(LlamaConfig(**config))
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        model.generation_config.eos_token_id = tokenizer.eos_token_id if end is None else end
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def spoil_tokenizers(target: Path) -> None:
    """Models whose tokenizer is at fault; the rest of each is right."""
    # The template writes <|im_start|> and <|im_end|>, which are seven pieces of text each here.
    save_model(target / "split-control-tokens", tokenizer(special_tokens=["<|pad|>", "<|endoftext|>"]))
    save_model(target / "small-embedding", tokenizer(), vocab_size=280)
    save_model(target / "other-vocabulary", tokenizer(vocab_size=280), reward=True)
    for name, change in (("pad-is-eos", pad_with_eos), ("no-eos", forget_eos), ("adds-bos", add_bos)):
        changed = tokenizer()
        change(changed)
        save_model(target / name, changed)
    (copy(target, "unreadable-tokenizer") / "tokenizer.json").write_text('{"version": "1.0", ')


def pad_with_eos(tokenizer) -> None:
    tokenizer.pad_token = "<|im_end|>"


def forget_eos(tokenizer) -> None:
    tokenizer.eos_token = None


def add_bos(tokenizer) -> None:
    """The tokenizer itself writes the bos token, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos[0]} $A", pair=f"{bos[0]} $A {bos[0]} $B", special_tokens=[bos]
    )


def spoil_templates(target: Path) -> None:
    """Models whose chat template is at fault; for what it is called, see the recipes."""
    import trl

    own = (target / "chat/chat_template.jinja").read_text(encoding="utf-8")
    end = "message.content + '<|im_end|>'"
    unmarked = own.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    templates = {
        "no-template": None,
        "no-generation-markers": unmarked,
        # TRL knows this one, and trains on a version of its own.
        "qwen-template": (Path(trl.__file__).parent / "chat_templates/qwen3.jinja").read_text(
            encoding="utf-8"
        ),
        "broken-template": own.replace("{%- endfor %}", ""),
        # Roles in plain words, as many a home-made template has them.
        "endless": re.sub(r"<\|im_start\|>|<\|im_end\|>", "", own),
        "end-unmarked": own.replace(
            end + " }}\n        {%- endgeneration %}",
            "message.content }}\n        {%- endgeneration %}\n        {{- '<|im_end|>' }}",
        ),
        "other-prompt": own.replace("{{- '<|im_start|>assistant\\n' }}", "{{- '<|im_start|>assistant:' }}"),
        "two-bos": "{{- bos_token }}{{- bos_token }}" + own,
    }
    for name, template in templates.items():
        assert template != own, f"{name}: nothing was replaced in the template"
        changed = tokenizer()
        changed.chat_template = template
        save_model(target / name, changed)


def spoil_models(target: Path) -> None:
    """Models that lack a part."""
    save_model(target / "scorer", tokenizer(), reward=True)
    save_model(target / "other-taste", tokenizer(), reward=True)
    edit(target / "other-taste", lambda weights: weights["score.weight"].neg_())
    edit(copy(target, "half-saved"), lambda weights: weights.pop("model.layers.1.mlp.up_proj.weight"))
    edit(copy(target, "untrained-tokens"), forget_chat_tokens)
    copy(target, "no-weights").joinpath("model.safetensors").unlink()
    copy(target, "no-tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (target / "no-tokenizer" / name).unlink()
    generation = copy(target, "stops-elsewhere") / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": tokenizer().eos_token_id}))
    save_model(target / "biased", tokenizer(), attention_bias=True)
    save_model(target / "odd-width", tokenizer(), intermediate_size=62)
    quantised = copy(target, "quantised") / "config.json"
    settings = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    quantised.write_text(json.dumps(json.loads(quantised.read_text()) | settings))
    save_adapter(target / "adapter", str(PARENTS / "chat"))
    save_adapter(target / "adapter-without-base", str(PARENTS / "gone"))


def forget_chat_tokens(weights: dict) -> None:
    """Their rows of the embedding become next to nothing, as those of tokens that no text ever held."""
    weights["model.embed_tokens.weight"][
        tokenizer().convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    ] *= 1e-4


def edit(path: Path, change: Callable[[dict], object]) -> None:
    """Change the tensors of a saved model in place."""
    from safetensors.torch import load_file, save_file

    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors", {"format": "pt"})


def save_adapter(path: Path, base: str) -> None:
    """A LoRA adapter for the right model, its weights not zero, as if it had been trained on `base`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(path.with_name("chat")), config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.peft_config["default"].base_model_name_or_path = base
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Could not find a config file in")  # gone on purpose
        model.save_pretrained(path)
    tokenizer().save_pretrained(path)


def spoil_records(target: Path) -> None:
    """Finished models whose run.json says otherwise."""
    other = "0" * 64
    write_record(copy(target, "sft-run"))
    write_record(copy(target, "unfinished"), status="stopped")
    write_record(copy(target, "changed"), weights_sha256=other)
    write_record(copy(target, "other-template"), template_sha256=other)
    write_record(copy(target, "other-tokenizer"), tokenizer_sha256=other)
    write_record(copy(target, "failed-gate"), gate=["eval_loss < 1.0"], metrics={"eval_loss": 2.5})
    # What a run's model said to a text of its own; this one says something else.
    probe = {"ids": list(range(4, 40)), "value": -2.0, "start": -5.7, "loose": 1e-3}
    write_record(copy(target, "dropped"), probe=probe)
    cut = copy(target, "truncated") / "model.safetensors"
    os.truncate(cut, cut.stat().st_size // 2)
    (copy(target, "bad-record") / "run.json").write_text('{"status": "done", ')
    base = {"path": str(PARENTS / "chat"), "weights_sha256": other}
    adapter = Path(shutil.copytree(target / "adapter", target / "adapter-of-another"))
    write_record(adapter, parents={"model": base})


def copy(target: Path, name: str) -> Path:
    """A copy of the right model, to be spoilt."""
    return Path(shutil.copytree(target / "chat", target / name))


def write_record(directory: Path, **fields) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "run.json").write_text(json.dumps(DONE | fields), encoding="utf-8")


# --- what stands in output_dir when the recipe of that name starts ----------------------------------------
def finished(directory: Path) -> None:
    write_record(directory)


def weights_alone(directory: Path) -> None:
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"somebody's")


def another_run(directory: Path) -> None:
    write_record(directory, status="stopped")
    (directory / "checkpoint-5").mkdir()


def busy(directory: Path) -> None:
    from lifecycle_recipes.record.environment import this_process

    write_record(directory, status="running", process=this_process())


def of_another_host(directory: Path) -> None:
    record = same_run(directory, "output-dir-other-host")
    write_record(directory, **record, status="running", process={"host": "node7", "pid": 1, "started": 0.0})


def a_file(directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.write_text("not a directory")


def incomplete(directory: Path) -> None:
    """A checkpoint of this very run, without the optimizer's state and the manifest that is written last."""
    write_record(directory, **same_run(directory, "checkpoint-incomplete"), status="stopped")
    (directory / "checkpoint-1").mkdir()
    (directory / "checkpoint-1/trainer_state.json").write_text("{}")
    (directory / "checkpoint-1/model.safetensors").write_bytes(b"weights")


def no_ledger(directory: Path) -> None:
    write_record(directory, stage="curate")


def curated(directory: Path) -> None:
    """A run of curation with one step, of which only the ledger is read."""
    write_record(directory, stage="curate")
    steps = [{"step": name, "sources": {}} for name in ("read", "near-duplicates", "mixture")]
    (directory / "ledger.json").write_text(json.dumps({"steps": steps}))


def same_run(directory: Path, code: str) -> dict:
    """The fields of a record by which the recipe of `code` recognises its own run."""
    from lifecycle_recipes.recipe.read import read_recipe
    from lifecycle_recipes.record.identity import identify
    from lifecycle_recipes.record.parents import describe_parent, find_parents, hash_inputs

    raw = read_recipe(f"recipes/broken/{code}/recipe.yaml")
    parents = {role: describe_parent(path, directory) for role, path in find_parents(raw.values).items()}
    inputs = hash_inputs(raw.values)
    return {"identity": identify(raw, parents, inputs), "parents": parents, "inputs": inputs}


SITUATIONS: dict[str, Callable[[Path], None]] = {
    "checkpoint-incomplete": incomplete,
    "no-ledger": no_ledger,
    "output-dir-busy": busy,
    "output-dir-finished": finished,
    "output-dir-not-ours": weights_alone,
    "output-dir-other-host": of_another_host,
    "output-dir-other-run": another_run,
    "output-dir-unwritable": a_file,
    "unknown-step": curated,
}


def prepare_runs(root: Path) -> None:
    """Empty the directory that the recipes write to, and put there what some of them must find."""
    shutil.rmtree(root / RUNS, ignore_errors=True)
    for code, situation in SITUATIONS.items():
        situation(root / RUNS / code)
