"""Export parity: every exported form answers as the trained model does, compared in a new process.

The trained model answers prompts, greedily. Each form is then loaded from its directory alone, as a user would, and
compared: the tokens that it would choose at every place of these replies, its logits there, its own greedy replies, the
rendered templates, the tokens of the prompts, the stop tokens. A reward model gives the same scores.

    python -m lifecycle_recipes.publish.parity DIRECTORY     (the new process; of `find_parity`)
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exit_status import signal_in_words
from ..finding import FAILED, Finding, Refusal, refuse
from ..models.config_file import longest_sequence
from ..models.saved import Saved, load_reward, load_saved
from ..models.turn_end import ANSWER, QUESTION, SECOND, render
from .calibrated import allow_few_cores
from .config import CALIBRATED, MERGED, ExportConfig
from .gguf_reading import load_gguf

if TYPE_CHECKING:
    import torch

BATCH = 16  # replies at once: the same for all forms, since another batch rounds differently
KEPT = 16  # places of each reply whose logits are compared; the chosen tokens are compared at all of them
# Greatest difference of logits of float32 weights that were only merged, and of scores of a reward model.
EXACT, EXACT_SCORE = 1e-3, 1e-4
# The same of scores in 16 bits, or on a quantised base, per unit of the largest score (at least 1).
ROUNDED_SCORE = 0.05
CONVERSATIONS = ([QUESTION], [QUESTION, ANSWER], [QUESTION, ANSWER, SECOND])
PLAN, EXPECTED, LOGITS, FOUND = "plan.json", "expected.json", "logits.safetensors", "found.json"


@dataclass
class Reading:
    """What a model does with the prompts.

    prompts, replies: token ids. texts: of the replies. stopped: how many ended with a stop token. choices: the most
    likely token at every place of the trained model's replies. templates: rendered conversations; None where the
    template rejects one. scores: of a reward model, for the prompts with ANSWER.
    """

    prompts: list[list[int]]
    replies: list[list[int]]
    texts: list[str]
    stopped: int
    choices: list[list[int]]
    templates: list[str | None]
    stops: list[int]
    scores: list[float]
    architecture: str
    dtype: str
    vocabulary: int


def read(
    saved: Saved, prompts: Sequence[Any], is_reward: bool, max_new_tokens: int, replies: list | None = None
) -> tuple[Reading, torch.Tensor | None]:
    """(reading, logits at the kept places, float32, [places, vocabulary]).

    prompts: texts or messages. replies: token ids at whose places the model is read; None for its own.
    """
    from ..evals.compare import rewards
    from ..evals.replies import stop_ids

    model, tokenizer = saved.model, saved.tokenizer
    chat = bool(tokenizer.chat_template)
    about = {
        "templates": [_rendered(tokenizer, messages) for messages in CONVERSATIONS] if chat else [],
        "architecture": (model.config.architectures or [type(model).__name__])[0],
        "dtype": str(model.dtype).removeprefix("torch."),
        "vocabulary": model.config.get_text_config().vocab_size,
    }
    ids = [_prompt_ids(tokenizer, prompt, chat) for prompt in prompts]
    if is_reward:
        scores = rewards(saved, list(prompts), [ANSWER["content"]] * len(prompts), BATCH)
        return Reading(ids, [], [], 0, [], stops=[], scores=scores, **about), None
    own = _answers(saved, ids, max_new_tokens)
    given = [list(reply.ids) for reply in own] if replies is None else replies
    choices, logits = _at_replies(saved, ids, given)
    reading = Reading(
        prompts=ids,
        replies=given,
        texts=list(map(str, own)),
        stopped=sum(reply.stopped for reply in own),
        choices=choices,
        stops=stop_ids(saved),
        scores=[],
        **about,
    )
    return reading, logits


def fitting(saved: Saved, prompts: list, max_new_tokens: int) -> list:
    """The prompts after which a reply has room in the model's context. Raises Refusal context-full if none has."""
    longest = longest_sequence(saved.model.config.to_dict()) or float("inf")
    chat = bool(saved.tokenizer.chat_template)
    found = [p for p in prompts if len(_prompt_ids(saved.tokenizer, p, chat)) + max_new_tokens <= longest]
    if not found:
        message = f"no prompt leaves room for {max_new_tokens} new tokens in a context of {longest}"
        raise refuse(
            "context-full", message, "give shorter prompts, or lower export.max_new_tokens", saved.path
        )
    return found


def _prompt_ids(tokenizer: Any, prompt: Any, chat: bool) -> list[int]:
    from ..evals.replies import encode, render

    return encode(tokenizer, render(tokenizer, prompt, chat), chat)


def _rendered(tokenizer: Any, messages: list[dict]) -> str | None:
    from jinja2 import TemplateError

    try:
        return render(tokenizer, messages, add_generation_prompt=messages[-1]["role"] == "user")
    except TemplateError:
        return None


def _answers(saved: Saved, prompts: list[list[int]], max_new_tokens: int) -> list:
    from ..evals.replies import generate

    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    found: dict[int, Any] = {}
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        found |= zip(batch, generate(saved, [prompts[i] for i in batch], max_new_tokens), strict=True)
    return [found[i] for i in range(len(prompts))]


def _at_replies(saved: Saved, prompts: list[list[int]], replies: list[list[int]]) -> tuple[list, Any]:
    """(most likely token at every place of the replies, logits at the first KEPT places of each)."""
    import torch

    choices, kept = [], []
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = torch.tensor([[*prompt, *reply]], device=saved.model.device)
        with torch.inference_mode():
            logits = saved.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float().cpu()
        choices.append(logits.argmax(-1).tolist())
        kept.append(logits[:KEPT])
    return choices, torch.cat(kept).clone()


# The new process


def find_parity(
    expected: tuple[Reading, Any], forms: dict[str, Path], prompts: list, config: ExportConfig, work: Path
) -> dict[str, dict[str, Any]]:
    """Form -> its comparison with the trained model (`compare`), measured in a new process; or `error`, if that fails.

    forms: form -> its directory. Raises Refusal export-unloadable if the process ends before its result.
    """
    from safetensors.torch import save_file

    reading, logits = expected
    work.mkdir()
    plan = {
        "forms": {form: str(path.resolve()) for form, path in forms.items()},
        "prompts": prompts,
        "reward": bool(reading.scores),
        "max_new_tokens": config.max_new_tokens,
    }
    (work / PLAN).write_text(json.dumps(plan), encoding="utf-8")
    (work / EXPECTED).write_text(json.dumps(asdict(reading)), encoding="utf-8")
    if logits is not None:
        save_file({"logits": logits}, work / LOGITS)
    command = [sys.executable, "-m", "lifecycle_recipes.publish.parity", str(work)]
    try:
        # GPTQModel prints tables when it is imported; the result is in a file.
        done = subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            how = f"was ended by {signal_in_words(-done.returncode)}" if done.returncode < 0 else "failed"
            message = f"the process that compares the forms {how}: {_last_line(done.stderr)}"
            raise refuse(
                "export-unloadable", message, "free memory, or export fewer forms", config.output_dir, FAILED
            )
        return json.loads((work / FOUND).read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it ended without a message"


def main(directory: str) -> None:
    from safetensors.torch import load_file

    from ..quiet import quiet

    quiet()
    work = Path(directory)
    plan = json.loads((work / PLAN).read_text(encoding="utf-8"))
    expected = Reading(**json.loads((work / EXPECTED).read_text(encoding="utf-8")))
    logits = load_file(work / LOGITS)["logits"] if (work / LOGITS).exists() else None
    found = {}
    for form, path in plan["forms"].items():
        try:
            saved = load_form(form, path, plan["reward"])
            given = expected.replies or None
            reading, theirs = read(saved, plan["prompts"], plan["reward"], plan["max_new_tokens"], given)
        except Exception as error:  # whatever upstream raises for files that it cannot use
            found[form] = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:300], "differs": []}
            continue
        found[form] = compare(expected, logits, reading, theirs)
        del saved
    (work / FOUND).write_text(json.dumps(found), encoding="utf-8")


def load_form(form: str, path: str | Path, is_reward: bool = False) -> Saved:
    """An exported form, loaded from its directory alone."""
    if form.startswith("gguf-"):
        return load_gguf(path)
    if form in CALIBRATED:
        allow_few_cores()
    return (load_reward if is_reward else load_saved)(str(path))


def compare(expected: Reading, logits: Any, reading: Reading, theirs: Any) -> dict[str, Any]:
    """How a form differs from the trained model.

    agreement: share of the tokens of the trained model's replies that the form chooses, too. max_difference,
    mean_difference: of logits, or scores. same_text: share of equal greedy replies. stopped: share of the form's
    replies that end with a stop token. differs: what is not equal of templates, prompt tokens, stop tokens, vocabulary.
    """
    found: dict[str, Any] = {"architecture": reading.architecture, "dtype": reading.dtype}
    if expected.scores:
        gaps = [abs(a - b) for a, b in zip(expected.scores, reading.scores, strict=True)]
        found |= {"max_difference": max(gaps), "mean_difference": sum(gaps) / len(gaps)}
        found["scale"] = max(1.0, *map(abs, expected.scores))
    else:
        pairs = [
            pair
            for a, b in zip(expected.choices, reading.choices, strict=True)
            for pair in zip(a, b, strict=True)
        ]
        same = [a == b for a, b in zip(expected.texts, reading.texts, strict=True)]
        found |= {
            "agreement": sum(a == b for a, b in pairs) / max(len(pairs), 1),
            "same_text": sum(same) / len(same),
            "stopped": reading.stopped / len(same),
        }
        gap = (logits - theirs).abs() if logits.shape == theirs.shape else None
        far = float("inf")  # another vocabulary
        found |= {"max_difference": far if gap is None else gap.max().item()}
        found |= {"mean_difference": far if gap is None else gap.mean().item()}
    names = {
        "templates": "rendered chat templates",
        "prompts": "tokens of the prompts",
        "stops": "stop tokens",
        "vocabulary": "vocabulary sizes",
    }
    found["differs"] = [
        text for name, text in names.items() if getattr(expected, name) != getattr(reading, name)
    ]
    return found


def find_in_parity(found: dict[str, dict], config: ExportConfig, exact: bool) -> list[Finding]:
    """export-differs for every form that is not the trained model; export-unloadable.

    exact: whether the merged model has the weights of the trained one, in float32, so that its logits must be equal.
    """
    findings = []
    for form, parity in found.items():
        least, where = config.least_agreement(form, exact), form_directory(config, form)
        if "error" in parity:
            message = f"{form} cannot be loaded: {parity['error']}"
            fix = "leave the form out, or export again"
            findings.append(Finding.error("export-unloadable", message, fix, where))
            continue
        for name in parity["differs"]:
            fix = "give the model the tokenizer and template that it was trained with"
            findings.append(_differs(f"{form}: the {name} differ from the trained model's", fix, where))
        if "agreement" in parity and parity["agreement"] < least:
            message = f"{form} chooses {parity['agreement']:.1%} of the trained model's tokens (at least {least:.1%})"
            fix = "leave the form out, choose one with more bits, or lower export.agreement"
            findings.append(_differs(message, fix, where))
        if form == MERGED and not parity["max_difference"] <= (most := _tolerance(parity, exact)):
            what = "logits" if "agreement" in parity else "scores"
            message = f"the {what} of the merged model differ by up to {parity['max_difference']:.2g}"
            message += f" (tolerance {most:g})"
            findings.append(_differs(message, "check the base of the adapter", where))
    return findings


def _tolerance(parity: dict, exact: bool) -> float:
    """Of the largest difference: of logits in 16 bits there is none, the chosen tokens decide."""
    if "agreement" in parity:
        return EXACT if exact else float("inf")
    return EXACT_SCORE if exact else ROUNDED_SCORE * parity["scale"]


def form_directory(config: ExportConfig, form: str) -> str:
    return config.output_dir if form == MERGED else str(Path(config.output_dir) / form)


def _differs(message: str, fix: str, where: str) -> Finding:
    return Finding.error("export-differs", message, fix, where)


def require_parity(found: dict[str, dict], config: ExportConfig, exact: bool) -> None:
    """Raises Refusal export-differs."""
    if findings := find_in_parity(found, config, exact):
        raise Refusal(*findings, status=FAILED)


if __name__ == "__main__":
    main(sys.argv[1])
