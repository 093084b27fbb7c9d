"""What each layout costs on one GPU: sft and dpo, real model shapes with random weights, a few steps each.

    python benchmarks/gpu_layouts.py --write docs/layouts.md
    python benchmarks/gpu_layouts.py --shapes qwen3-0.6b --stages sft --cases fsdp2 zero3 --steps 40
    python benchmarks/gpu_layouts.py --cpu --shapes tiny --cases cpu zero2 --steps 4 --length 64

One rank of each layout: what a layout shards stays in one place, so the figures say that it runs, saves and
reloads, and what its machinery costs; not what it saves over many GPUs. Every case is a stage as a user
starts it: it trains, saves, reloads what it saved and compares the logits with the trained model's (the
stage's own check), so "reload" is the largest difference. tokens/s is over the last three quarters of the
steps; peak is the GPU's (with --cpu the process's memory). What the machine lacks the stage refuses, and
its code stands in the table.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import yaml

from lifecycle_recipes.doctor.recipe_level.layout_launch import count_gpus
from lifecycle_recipes.layouts.layout import find_layout
from lifecycle_recipes.record import environment

ROOT = Path(__file__).resolve().parents[1]
HEAD = ("shape", "stage", "layout", "method", "precision", "peak, GB", "tokens/s", "loss", "reload")
LORA = {"use_peft": True, "lora_r": 16, "lora_alpha": 32}
QLORA = LORA | {"load_in_4bit": True, "dtype": "bfloat16", "bnb_4bit_quant_storage": "bfloat16"}
WORDS = (
    "the service owner asks why port number is open while team red and blue restart it before noon".split()
)

# config.json of HuggingFaceTB/SmolLM2-135M and Qwen/Qwen3-0.6B, as far as it gives a tensor its shape.
SHAPES = {
    "tiny": (
        "llama",
        dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2),
    ),
    "smollm2-135m": (
        "llama",
        dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9)
        | dict(num_key_value_heads=3, vocab_size=49152, max_position_embeddings=8192)
        | dict(tie_word_embeddings=True),
    ),
    "qwen3-0.6b": (
        "qwen3",
        dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16)
        | dict(num_key_value_heads=8, head_dim=128, vocab_size=151936, max_position_embeddings=40960)
        | dict(tie_word_embeddings=True),
    ),
}


@dataclass(frozen=True)
class Case:
    """A layout, how the weights are trained, and whether dpo runs so."""

    layout: str
    method: str = "full"
    dpo: bool = True

    @property
    def name(self) -> str:
        return self.layout if self.method == "full" else f"{self.layout}-{self.method.lower()}"

    @property
    def model(self) -> dict:
        return {"full": {}, "LoRA": LORA, "QLoRA": QLORA}[self.method]


CASES = (
    *(Case("one_gpu"), Case("one_gpu_fp16"), Case("one_gpu_fp8", dpo=False), Case("fsdp2")),
    *(
        Case("fsdp2_offload"),
        Case("fsdp2_fp8", dpo=False),
        Case("zero2"),
        Case("zero3"),
        Case("zero3_offload"),
    ),
    *(Case("one_gpu", "LoRA"), Case("zero3", "LoRA"), Case("fsdp2", "LoRA")),
    *(Case("one_gpu", "QLoRA"), Case("zero2", "QLoRA"), Case("zero3", "QLoRA"), Case("fsdp2", "QLoRA")),
)
ON_CPU = (Case("cpu"), Case("zero2"), Case("zero3"), Case("cpu", "LoRA"))


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    cases = ON_CPU if args.cpu else CASES
    if unknown := set(args.cases or ()) - {case.name for case in cases}:
        sys.exit(f"no case {', '.join(sorted(unknown))}: one of {', '.join(case.name for case in cases)}")
    if not args.cpu and not count_gpus():
        print("no GPU: nothing can be measured here (--cpu tries the script itself)", file=sys.stderr)
        sys.exit(2)
    rows, text = [], "nothing was run"
    with tempfile.TemporaryDirectory(prefix="layouts-") as folder:
        for shape in args.shapes:
            here = Path(folder) / shape
            build(here, shape, args)
            for stage in args.stages:
                for case in cases:
                    if (args.cases and case.name not in args.cases) or (stage == "dpo" and not case.dpo):
                        continue
                    rows.append((shape, stage, *measure(here, stage, case, args)))
                    print(" | ".join(rows[-1]), flush=True)
                    sizes = f"{args.steps} steps of {args.rows} rows of up to {args.length} tokens"
                    text = table(facts(args, sizes), HEAD, rows)
                    if args.write:  # after each, so that nothing is lost if it is stopped
                        write(Path(args.write), text, "gpu")
    print(f"\n{text}")
    sys.exit(any("failed" in cell for cells in rows for cell in cells))


def parse(argv: list[str] | None) -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("gpu_layouts.py", description=__doc__, formatter_class=shape)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["smollm2-135m", "qwen3-0.6b"])
    parser.add_argument("--stages", nargs="+", choices=("sft", "dpo"), default=["sft", "dpo"])
    parser.add_argument("--cases", nargs="+", metavar="CASE", help="default: all")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="default: 20")
    parser.add_argument("--rows", type=int, default=4, metavar="N", help="of a step (default: 4)")
    parser.add_argument(
        "--length", type=int, default=1024, metavar="N", help="tokens of a row (default: 1024)"
    )
    parser.add_argument("--write", metavar="FILE", help="put the table between the markers of this page")
    parser.add_argument("--cpu", action="store_true", help="without a GPU, to see that this script works")
    args = parser.parse_args(argv)
    if min(args.steps, args.rows) < 1 or args.length < 32:
        parser.error("at least one step, one row and 32 tokens")
    return args


def build(here: Path, shape: str, args: argparse.Namespace) -> None:
    """A tokenizer, a model of this shape with random weights, and rows that fill `args.length` tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM, set_seed

    from lifecycle_recipes.stages.tokenizer import TokenizerConfig, build_tokenizer

    here.mkdir()
    set_seed(0)
    template = str(ROOT / "chat_templates/chatml.jinja")
    config = TokenizerConfig(output_dir=str(here / "model"), vocab_size=300, chat_template=template)
    tokenizer = build_tokenizer([" ".join(WORDS)] * 8, config)
    tokenizer.save_pretrained(here / "model")
    model_type, sizes = SHAPES[shape]
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(model_type, **{"vocab_size": len(tokenizer)} | sizes | ids)
    )
    model.save_pretrained(here / "model")
    pick = random.Random(0)
    per_word = len(tokenizer(" ".join(WORDS))["input_ids"]) / len(WORDS)

    def speech(role: str, share: float) -> list[dict]:
        words = pick.choices(WORDS, k=max(1, int(share * 0.9 * (args.length - 24) / per_word)))
        return [{"role": role, "content": " ".join(words)}]

    count = args.rows * args.steps
    talks = [{"messages": speech("user", 0.3) + speech("assistant", 0.7)} for _ in range(count)]
    pairs = [
        dict(prompt=speech("user", 0.3), chosen=speech("assistant", 0.7), rejected=speech("assistant", 0.7))
        for _ in range(count)
    ]
    for name, rows in (("sft", talks), ("dpo", pairs)):
        (here / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))


def measure(here: Path, stage: str, case: Case, args: argparse.Namespace) -> tuple[str, ...]:
    """The cells of a row, from `layout` on: what one run of the stage came to."""
    run = here / f"{stage}-{case.name}"
    recipe = {
        "stage": stage,
        "model": {"model_name_or_path": str(here / "model")} | case.model,
        "data": {"sources": [{"path": str(here / f"{stage}.jsonl")}]},
        "global_batch_size": args.rows,
        "train": {
            **{"output_dir": str(run), "max_steps": args.steps, "max_length": args.length},
            **{"per_device_train_batch_size": args.rows, "learning_rate": 1e-4, "logging_steps": 1},
            **{"save_strategy": "no", "report_to": "none", "disable_tqdm": True},
        },
        # Random weights and random words: this run is about the machine.
        "allow": {"stop-token-missing": "random weights", "control-token-split": "a tokenizer of 300 tokens"},
    }
    (here / f"{run.name}.yaml").write_text(yaml.safe_dump(recipe))
    done = subprocess.run(command(here / f"{run.name}.yaml", stage, case, args), **process(args))
    cells = case.layout, case.method
    record = json.loads((run / "run.json").read_text()) if (run / "run.json").is_file() else {}
    if done.returncode or record.get("status") != "done":
        said = [line for line in done.stderr.splitlines() if line.startswith("error")]
        print(done.stderr[-4000:], file=sys.stderr)
        word = "not run" if done.returncode == 2 else f"failed ({done.returncode})"
        return *cells, "", "", "", "", f"{word}: {(said or [done.stderr.strip()[-200:]])[0][:160]}"
    saved = record.get("saved") or {}
    peak = record.get("peak_gpu_memory_gb", record["peak_memory_gb"])
    logs = json.loads((run / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in logs if "loss" in entry]
    return (
        *(*cells, record["layout"]["precision"], f"{peak:.2f}", f"{speed(logs):,.0f}"),
        f"{losses[0]:.3f} -> {losses[-1]:.3f}",
        f"{saved['differs']:.1e}" if saved.get("compared") else "not compared",
    )


def command(recipe: Path, stage: str, case: Case, args: argparse.Namespace) -> list[str]:
    """One process of the layout, through the project's own launcher."""
    launcher = [sys.executable, "-m", "lifecycle_recipes.layouts.launch", "--quiet"]
    layout = ["--config_file", str(find_layout(case.layout)), "--num_processes", "1"]
    everywhere = ["--gpu_ids", "all"] if args.cpu else []
    return [*launcher, *layout, *everywhere, "-m", f"lifecycle_recipes.stages.{stage}", str(recipe)]


def process(args: argparse.Namespace) -> dict:
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if args.cpu else {}
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **hidden}
    return {"cwd": ROOT, "env": environment, "capture_output": True, "text": True}


def speed(logs: list[dict]) -> float:
    """Tokens per second over all steps but the first quarter, in which memory and kernels are found."""
    seen = [(e["num_input_tokens_seen"], e["train_runtime"]) for e in logs if "loss" in e]
    (first, start), (last, end) = seen[len(seen) // 4], seen[-1]
    return (last - first) / (end - start) if end > start else float("nan")


def facts(args: argparse.Namespace, sizes: str) -> str:
    """What the figures hold for: date, machine, versions and sizes."""
    kept = ("torch", "transformers", "trl", "accelerate", "peft", "deepspeed", "bitsandbytes")
    versions = ", ".join(f"{name} {v}" for name, v in environment.versions().items() if name in kept)
    machine = environment.hardware()
    device = machine["cpu"] if args.cpu else ", ".join(map(str, machine["gpus"]))
    return f"{date.today()}, {device}, one process; {versions}; {sizes}."


def table(facts: str, head: tuple, rows: list) -> str:
    return "\n".join([facts, "", row(head), row(["---"] * len(head)), *map(row, rows)])


def row(cells) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def write(page: Path, text: str, name: str) -> None:
    """Put a text between the page's markers of this name."""
    start, end = f"<!-- {name}: start -->\n", f"\n<!-- {name}: end -->"
    head, _, rest = page.read_text(encoding="utf-8").partition(start)
    page.write_text(f"{head}{start}{text}{end}{rest.partition(end)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
