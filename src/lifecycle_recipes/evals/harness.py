"""lm-eval in this process, on the loaded model and its stored replies."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import lm_eval.api.task as lm_eval_task
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from tqdm import tqdm

from ..finding import refuse
from ..models.special_tokens import document_start
from ..recipe.task_files import read_tasks
from .config import SEED, EvaluateConfig
from .replies import Replies, encode, refuse_without_template

if TYPE_CHECKING:
    pass


class SavedModelLM(HFLM):
    """A loaded model with the interface of lm-eval.

    `Replies` generates each reply once and records whether it stopped, which lm-eval's plain text lacks.
    """

    def __init__(self, replies: Replies, batch_size: int):
        saved = replies.saved
        if hasattr(saved.model, "peft_config"):
            # lm-eval calls this method, and that of transformers cannot assign through PEFT's wrapper of a
            # tied embedding in modules_to_save. PEFT has tied the weights already.
            saved.model.tie_weights = lambda *args, **kwargs: None
        super().__init__(
            pretrained=saved.model,
            tokenizer=saved.tokenizer,
            batch_size=batch_size,
            prefix_token_id=document_start(saved.tokenizer),
        )
        self.replies = replies
        self.chat = False  # whether the current requests were rendered with the chat template

    def generate_until(self, requests, disable_tqdm: bool = True) -> list[str]:
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(repr(request.args[1]), []).append(i)
        answers: dict[int, str] = {}
        for group in groups.values():
            settings = normalize_gen_kwargs(requests[group[0]].args[1], self.max_gen_toks)
            prompts = [encode(self.tokenizer, requests[i].args[0], self.chat) for i in group]
            answers.update(zip(group, self.replies.answer(prompts, **_as_generate(settings)), strict=True))
        return [answers[i] for i in range(len(requests))]

    def loglikelihood(self, requests, disable_tqdm: bool = True):
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = True, override_bs=None):
        return super()._loglikelihood_tokens(requests, disable_tqdm=True, override_bs=override_bs)

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = True):
        return super().loglikelihood_rolling(requests, disable_tqdm=True)


def run_tasks(replies: Replies, config: EvaluateConfig) -> dict[str, float]:
    """Run config.tasks; return `{<task>.<metric>: value}`, without standard errors.

    With config.chat, generation tasks use the chat template. Likelihood tasks never use it, so that a base
    model and an assistant get the same text and can be compared.
    """
    with _quiet():
        loaded = load_tasks(config)
        lm = SavedModelLM(replies, config.batch_size)
        metrics: dict[str, float] = {}
        for chat in (False, True):
            tasks = {
                name: task
                for name, task in loaded["tasks"].items()
                if chat == (config.chat and task.OUTPUT_TYPE == "generate_until")
            }
            if not tasks:
                continue
            if chat:
                refuse_without_template(replies.saved)
            lm.chat = chat
            results = evaluate(
                lm=lm,
                # A group is the average of its members, which may be of both kinds: members are reported.
                task_dict={"tasks": tasks, "groups": {}},
                limit=config.limit,
                bootstrap_iters=0,
                log_samples=False,
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
            )
            metrics |= _flatten(results["results"])
    return metrics


def load_tasks(config: EvaluateConfig) -> dict:
    """lm-eval's `{"tasks": ..., "groups": ...}`, with absolute data paths."""
    manager = TaskManager(include_path=config.include_path, include_defaults=config.include_path is None)
    for name, file in read_tasks(config.include_path).items() if config.include_path else ():
        if (file.config.get("dataset_kwargs") or {}).get("data_files"):
            entry = manager.task_index[name]
            entry.cfg = load_yaml(entry.yaml_path) | {"dataset_kwargs": file.config["dataset_kwargs"]}
            entry.yaml_path = None
    try:
        loaded = manager.load(list(config.tasks))
    except KeyError as error:
        raise refuse("unknown-task", f"lm-eval: {error.args[0]}", "correct evaluate.tasks") from error
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=SEED)
    return loaded


def _as_generate(settings: dict) -> dict:
    """lm-eval's normalised settings as arguments of `Replies.answer`."""
    settings = dict(settings)
    settings["max_new_tokens"] = settings.pop("max_gen_toks")
    if not settings.get("until"):
        settings.pop("until", None)
    if not settings.get("do_sample"):  # greedy is the default; a temperature would only cause a warning
        settings.pop("do_sample", None)
        settings.pop("temperature", None)
    return settings


def _flatten(results: dict[str, dict]) -> dict[str, float]:
    metrics = {}
    for task, values in results.items():
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, (int, float)):
                continue
            name = f"{task}.{metric}" if filtered == "none" else f"{task}.{metric}.{filtered}"
            metrics[name] = float(value)
    return metrics


@contextmanager
def _quiet():
    """Hide lm-eval's progress bars and its warnings about what is intended: a loaded model, no bootstrap."""
    import datasets

    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, lm_eval_task.tqdm
    bars_were_off = datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    lm_eval_task.tqdm = partial(tqdm, disable=True)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        lm_eval_task.tqdm = bar
        if not bars_were_off:
            datasets.enable_progress_bars()
