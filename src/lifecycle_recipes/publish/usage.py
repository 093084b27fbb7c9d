"""How to use what is published, with the tools that apply to its files. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..models.adapters import adapter_config, is_adapter
from ..models.quantised_base import quantisation_of, quantised_bits
from ..record.trained_stage import trained_stage
from .config import CALIBRATED, PACKAGES

if TYPE_CHECKING:
    from .push import Push

BITSANDBYTES = ("int8", "nf4")  # forms
ON_TWO_CORES = (
    "; on a machine with two cores, set `GPTQMODEL_CPU_WORKERS=2`"  # GPTQModel starts no fewer workers
)


def usage(path: Path, record: dict[str, Any], what: Push) -> str:
    """The section `Use`. path: the directory of the files."""
    return "\n\n".join(["## Use", *_private(what), *_ways(path, record, what)])


def _private(what: Push) -> list[str]:
    return (
        [] if what.public else ["The repository is private: log in with `hf auth login`, or set `HF_TOKEN`."]
    )


def _ways(path: Path, record: dict[str, Any], what: Push) -> list[str]:
    stage, repo = trained_stage(record), f'"{what.repo}"'
    at = "" if what.branch == "main" else f', revision="{what.branch}"'
    if stage == "curate":
        return [python(f"from datasets import load_dataset\n\nrows = load_dataset({repo}{at})")]
    if stage == "tokenizer":
        code = (
            f"from transformers import AutoTokenizer\n\ntokenizer = AutoTokenizer.from_pretrained({repo}{at})"
        )
        return [python(code)]
    if (path / "model.gguf").is_file():
        name, branch = what.repo.rpartition("/")[2].lower(), revision(what)
        download = f"hf download {what.repo}{branch} model.gguf Modelfile --local-dir ."
        return [
            "llama.cpp, or Ollama:\n\n"
            + shell(f"{download}\nllama-cli -m model.gguf\nollama create {name} -f Modelfile")
        ]
    if stage == "reward":
        return _reward(path, repo, at)
    return _generation(path, what, repo, at)


def _reward(path: Path, repo: str, at: str) -> list[str]:
    if is_adapter(str(path)):
        return [_peft(path, "AutoPeftModelForSequenceClassification", repo, f"{at}, num_labels=1")]
    code = f'from transformers import pipeline\n\nscore = pipeline("text-classification", {repo}{at})\n'
    code += 'print(score("text", function_to_apply="none"))   # the raw reward'
    return [python(code)]


def _generation(path: Path, what: Push, repo: str, at: str) -> list[str]:
    if bits := quantised_bits(str(path)):  # the other tools would load the base in full
        needs = "PEFT and bitsandbytes (`pip install peft bitsandbytes accelerate`)"
        code = _peft(path, "AutoPeftModelForCausalLM", repo, at)
        return [f"transformers with {needs}, on the base in {bits} bits as in training:\n\n{code}"]
    chat = (path / "chat_template.jinja").is_file()
    prompt = '[{"role": "user", "content": "Hello"}]' if chat else '"Once"'
    adapter = is_adapter(str(path))
    code = f'from transformers import pipeline\n\ngenerate = pipeline("text-generation", {repo}{at})'
    # Greedy, as everything on the card was measured: without it, pipelines sample.
    code += f"\nprint(generate({prompt}, max_new_tokens=64, do_sample=False))"
    with_peft = ", with PEFT installed" if adapter else ""
    ways = [f"transformers{with_peft}{_needs(what.form)}:\n\n{python(code)}"]
    branch = revision(what)
    if adapter:
        base = adapter_config(str(path))["base_model_name_or_path"]
        name = what.repo.rpartition("/")[2]
        ways.append("PEFT:\n\n" + _peft(path, "AutoPeftModelForCausalLM", repo, at))
        if not branch:  # vLLM takes no revision of an adapter
            ways.append(
                "vLLM:\n\n" + shell(f"vllm serve {base} --enable-lora --lora-modules {name}={what.repo}")
            )
    elif what.form is None:
        ways.append("vLLM:\n\n" + shell(f"vllm serve {what.repo}{branch}"))
    return ways


def _needs(form: str | None) -> str:
    """What transformers needs to load a form."""
    packages = [*PACKAGES.get(form or "", {}), *(["accelerate"] if form in BITSANDBYTES else [])]
    more = ON_TWO_CORES if form in CALIBRATED else ""
    return f" (`pip install {' '.join(packages)}`{more})" if packages else ""


def _peft(path: Path, auto: str, repo: str, more: str) -> str:
    """The code that loads an adapter; on the base that was quantised as in training."""
    if not (given := quantisation_of(str(path))):
        return python(f"from peft import {auto}\n\nmodel = {auto}.from_pretrained({repo}{more})")
    from trl import get_quantization_config

    settings = get_quantization_config(given).to_diff_dict()
    values = [f"{key}={value!r}" for key, value in sorted(settings.items()) if not key.startswith("_")]
    code = f"from peft import {auto}\nfrom transformers import BitsAndBytesConfig\n\n"
    code += f"quantised = BitsAndBytesConfig({', '.join(values)})\nmodel = {auto}.from_pretrained(\n"
    code += f"    {repo}{more}, quantization_config=quantised, dtype={str(given.dtype)!r}\n)"
    return python(code)


def revision(what: Push) -> str:
    """The option of a command for the branch."""
    return "" if what.branch == "main" else f" --revision {what.branch}"


def python(code: str) -> str:
    return f"```python\n{code}\n```"


def shell(code: str) -> str:
    return f"```sh\n{code}\n```"
