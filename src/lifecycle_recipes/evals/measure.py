"""Measure a saved model and write the metrics into its record."""

from __future__ import annotations

import time
from statistics import fmean
from typing import TYPE_CHECKING

from ..exit_status import is_main_process
from ..finding import Finding
from .check import check_config
from .config import SEED, EvaluateConfig

if TYPE_CHECKING:
    import trl

    from ..models.saved import Saved
    from ..record.run import Run


def measure(
    model_dir: str,
    config: EvaluateConfig | None,
    run: Run,
    model_config: trl.ModelConfig | None = None,
    saved: Saved | None = None,
) -> None:
    """Measure what `config` requests on the model saved in `model_dir`.

    Adds to run.metrics: `<task>.<metric>`; `rubric` (mean score, 0..1), `rubric_win_rate` and the same at
    equal length, `rubric_win_rate_lc`; `reward` and `reward_against` (mean logits); `kl` (nats per token).
    Writes `samples` and `evaluation` into the record, with the commits of what was read from the Hub.
    model_config: the recipe's trl.ModelConfig, for quantised parents. saved: that model, if it is already
    loaded. Only rank 0 measures.
    Reports `reward-hacking` if the reward rose and the rubric fell.
    Raises Refusal for a reward model, a missing file, or chat prompts without a chat template.
    """
    if config is None or not is_main_process():
        return
    check_config(config, produced=(model_dir,))
    started = time.perf_counter()
    from transformers import set_seed

    from ..models.saved import load_saved
    from .replies import Replies

    set_seed(SEED)  # tasks may sample: what ran before in this process must not matter
    saved = saved.bring_back() if saved else load_saved(model_dir, model_config)
    replies = Replies(saved, config.batch_size)
    evaluation = {"chat_template": config.chat, "batch_size": config.batch_size, "limit": config.limit}
    if config.prompts:
        evaluation |= _measure_replies(replies, config, run)
    if config.tasks:
        from .harness import run_tasks

        run.metrics.update(run_tasks(replies, config))
    replies.keep()
    if replies.overlong:
        evaluation["overlong_prompts"] = replies.overlong
    run.note(evaluation=evaluation | {"seconds": round(time.perf_counter() - started, 2)})
    run.report(find_reward_hacking(run.metrics, evaluation.get("prompts")))


def find_reward_hacking(metrics: dict[str, float], prompts: int | None = None) -> list[Finding]:
    """reward-hacking: compared with the parent, the reward is higher and the held-out rubric score lower."""
    reward, against = metrics.get("reward"), metrics.get("reward_against")
    rates = {
        name: metrics[key]
        for name, key in (
            ("win rate", "rubric_win_rate"),
            ("win rate at equal length", "rubric_win_rate_lc"),
        )
        if key in metrics
    }
    if reward is None or against is None or not rates or reward <= against:
        return []
    # Two standard errors of a fair coin that is tossed once per prompt.
    noise = 1 / prompts**0.5 if prompts else 0
    lost = [f"{name} {rate:.2f}" for name, rate in rates.items() if rate < 0.5 - noise]
    if not lost:
        return []
    message = f"the reward rose from {against:.3g} to {reward:.3g}, but the rubric scores the parent higher: "
    message += ", ".join(lost)
    fix = (
        "likely reward hacking: raise the KL weight (dpo and kto: train.beta, ppo: train.kl_coef), stop earlier "
        "(train.max_steps), or train the reward model on such replies"
    )
    return [Finding.warning("reward-hacking", message, fix)]


def _measure_replies(replies, config: EvaluateConfig, run: Run) -> dict:
    """All measures of the replies to config.prompts. Returns their entries in the record."""
    from ..models.saved import load_reward, load_saved
    from .replies import encode, refuse_without_template, render
    from .rubric import read_prompts

    saved = replies.saved
    if config.chat:
        refuse_without_template(saved)
    rows = read_prompts(config.prompts, config.limit)
    texts = [render(saved.tokenizer, row["prompt"], config.chat) for row in rows]
    ids = [encode(saved.tokenizer, text, config.chat) for text in texts]
    own = replies.answer(ids, config.max_new_tokens)
    run.note(
        samples=[
            {"prompt": row["prompt"], "reply": str(reply)}
            for row, reply in zip(rows[: config.samples], own, strict=False)
        ]
    )
    facts = {"prompts": len(rows), "stopped": sum(r.stopped for r in own)}
    theirs = None
    if config.against:
        other = load_saved(config.against, revision=config.against_revision)
        facts |= _origin("against", other)
        theirs, kl = _compare_models(saved, other, config, rows, ids, own)
        if kl is None:
            facts["kl"] = "not measured: the two models have different vocabularies"
        else:
            run.metrics["kl"] = kl
    if config.rubric:
        run.metrics.update(_judge_by_rubric(config, rows, own, theirs))
    if config.reward_model:
        reward = load_reward(config.reward_model, revision=config.reward_model_revision)
        facts |= _origin("reward_model", reward)
        run.metrics.update(_judge_by_reward(reward, config, rows, own, theirs))
    return facts


def _origin(role: str, saved) -> dict[str, str]:
    """The record entry of a model that was read: its path or id, and for an id the commit."""
    return {role: saved.path} | ({f"{role}_revision": saved.revision} if saved.revision else {})


def _compare_models(saved, other, config: EvaluateConfig, rows, ids, own):
    """(the other model's replies to the same prompts, KL(model || other) or None)."""
    from ..models.saved import same_vocabulary
    from .compare import mean_kl
    from .replies import Replies, encode, render

    cache = Replies(other, config.batch_size)
    prompts = [
        encode(other.tokenizer, render(other.tokenizer, row["prompt"], config.chat), config.chat)
        for row in rows
    ]
    theirs = cache.answer(prompts, config.max_new_tokens)
    cache.keep()
    if not same_vocabulary(saved, other):
        return theirs, None
    return theirs, mean_kl(saved, other, ids, [reply.ids for reply in own])


def _judge_by_rubric(config: EvaluateConfig, rows, own, theirs) -> dict[str, float]:
    from .compare import length_controlled_win_rate, win_rate
    from .rubric import load_score

    score = load_score(config.rubric)
    scores = [score(row, str(reply)) for row, reply in zip(rows, own, strict=True)]
    metrics = {"rubric": fmean(scores)}
    if theirs is not None:
        other = [score(row, str(reply)) for row, reply in zip(rows, theirs, strict=True)]
        metrics["rubric_win_rate"] = win_rate(scores, other)
        lengths = [[len(str(reply)) for reply in replies] for replies in (own, theirs)]
        metrics["rubric_win_rate_lc"] = length_controlled_win_rate(scores, other, *lengths)
    return metrics


def _judge_by_reward(reward, config: EvaluateConfig, rows, own, theirs) -> dict[str, float]:
    from .compare import rewards

    prompts = [row["prompt"] for row in rows]
    metrics = {"reward": fmean(rewards(reward, prompts, own, config.batch_size))}
    if theirs is not None:
        metrics["reward_against"] = fmean(rewards(reward, prompts, theirs, config.batch_size))
    return metrics
