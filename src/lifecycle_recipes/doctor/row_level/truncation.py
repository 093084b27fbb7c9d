"""Level 2, truncation by `max_length`: rows that are dropped, or lose their answer or its end. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...finding import Finding
from .token_lengths import Length, Sample, listed

if TYPE_CHECKING:
    from ...recipe.read import RawRecipe

# Upstream truncates and drops rows silently. Below the share WARN the effect is small, and the ledger counts
# the rows; from REFUSE on, the run does not match its recipe (half of a chat set lost its answers at 1024).
WARN, REFUSE = 0.01, 0.20
# The default of trl's SFTConfig, DPOConfig, KTOConfig and RewardConfig.
DEFAULT_MAX_LENGTH = 1024
UNCUT = ("bfd_split", "wrapped")  # packing strategies that move what does not fit to the next row


def find_cuts(raw: RawRecipe, lengths: list[Length], sample: Sample, positions: int | None) -> list[Finding]:
    """zero-label-rows, rows-too-long, answers-cut, answers-all-cut, no-trained-tokens, prompts-too-long.

    positions: the longest sequence that the model supports, if known.
    """
    if not lengths:
        return []
    train = raw.values["train"]
    if raw.stage == "ppo":
        return _find_in_prompts(raw, lengths, sample, positions)
    limit = train.get("max_length", DEFAULT_MAX_LENGTH)
    where = raw.places.get("train.max_length", raw.places.get("train", ""))
    unlabelled = [row for row in lengths if row.last is None] if raw.stage == "sft" else []
    if unlabelled:
        message = f"these rows have no supervised token at any length: {_rows(unlabelled)}"
        fix = "add an assistant message with text, or remove the rows"
        return [Finding.error("zero-label-rows", message, fix, str(unlabelled[0].place))]
    if limit is None or (train.get("packing") and train.get("packing_strategy", "bfd") in UNCUT):
        return []
    drops = (raw.values.get("data") or {}).get("truncation") == "drop"
    if drops:
        dropped, cut = [row for row in lengths if row.whole > limit], []
    else:
        dropped, cut = _split(raw.stage, lengths, limit)
    code = "rows-too-long" if drops else _dropped_code(raw.stage)
    says = (
        f"are longer than train.max_length = {limit}: left out" if drops else _dropped_says(raw.stage, limit)
    )
    longest = max(row.whole for row in lengths)
    fix = f"raise train.max_length (the longest of these rows has {longest} tokens), or shorten the rows"
    if len(dropped) == len(lengths):
        message = f"no row has a supervised token within train.max_length = {limit}"
        return [Finding.error("no-trained-tokens", message, fix, where)]
    if len(dropped) + len(cut) == len(lengths):
        message = f"train.max_length = {limit} truncates every answer: no end-of-turn token is supervised"
        return [Finding.error("answers-all-cut", message, fix, where)]
    return [
        *_share(code, dropped, sample, says, fix, where),
        *_share(
            "answers-cut",
            cut,
            sample,
            f"have an answer truncated by train.max_length = {limit}: its end-of-turn token is lost",
            fix,
            where,
        ),
    ]


def may_pass_positions(raw: RawRecipe, positions: int | None) -> bool:
    """Whether train.max_length allows sequences longer than the model's positions. PPO has no such key."""
    if positions is None or raw.stage == "ppo":
        return False
    limit = raw.values["train"].get("max_length", DEFAULT_MAX_LENGTH)
    return limit is None or limit > positions


def find_beyond_positions(raw: RawRecipe, lengths: list[Length], positions: int | None) -> list[Finding]:
    """block-too-long: rows longer than the model's positions that train.max_length does not truncate.

    Learned positions end with an error on the first such row; RoPE was not trained beyond them. The positions of
    packed rows restart with each row, except with `wrapped`, whose rows all have train.max_length tokens.
    """
    if not may_pass_positions(raw, positions):
        return []
    train = raw.values["train"]
    where = raw.places.get("train.max_length", raw.places.get("train", ""))
    fix = f"write `max_length: {positions}`, or raise the model's positions (rope_scaling in its config)"
    wrapped = train.get("packing") and train.get("packing_strategy", "bfd") == "wrapped"
    if train.get("max_length") and wrapped:
        message = f"train.max_length {train['max_length']} exceeds the model's {positions} positions"
        return [Finding.error("block-too-long", message, fix, where)]
    beyond = [row for row in lengths if row.whole > positions]
    if not beyond:
        return []
    limit = train.get("max_length", f"{DEFAULT_MAX_LENGTH} by default") or "null"
    message = f"{_rows(beyond)}: longer than the model's {positions} positions (train.max_length is {limit})"
    return [Finding.error("block-too-long", message, fix, where)]


def _split(stage: str, lengths: list[Length], limit: int) -> tuple[list[Length], list[Length]]:
    """(rows that are dropped or have no supervised token, rows whose answer is truncated), as in trl 1.12."""
    if stage == "sft":
        dropped = [row for row in lengths if row.first >= limit]
        return dropped, [row for row in lengths if row.first < limit <= row.last]
    if stage == "reward":  # reward_trainer.py drops a row by its longer reply
        return [row for row in lengths if row.whole > limit], []
    # dpo_trainer.py, kto_trainer.py: drop a row whose prompt fills the length, and truncate a longer reply.
    dropped = [row for row in lengths if row.prompt >= limit]
    return dropped, [row for row in lengths if row.prompt < limit < row.whole]


def _dropped_code(stage: str) -> str:
    return "zero-label-rows" if stage == "sft" else "rows-too-long"


def _dropped_says(stage: str, limit: int) -> str:
    if stage == "sft":
        return f"have no supervised token within train.max_length = {limit}"
    whole = "are longer than" if stage == "reward" else "have a prompt at least as long as"
    return f"{whole} train.max_length = {limit}: TRL drops them"


def _share(
    code: str, rows: list[Length], sample: Sample, message: str, fix: str, where: str
) -> list[Finding]:
    """An error from the share REFUSE on, a warning from WARN on; a row without labels is always reported."""
    share = len(rows) / len(sample.places)
    if not rows or (share < WARN and code != "zero-label-rows"):
        return []
    severity = "error" if share >= REFUSE else "warning"
    bound = f"an error from {REFUSE:.0%}" if severity == "warning" else f"the limit is {REFUSE:.0%}"
    message = f"{share:.1%} of {sample.of} {message} ({_rows(rows)}; {bound})"
    return [Finding(code, severity, message, fix, where)]


def _rows(rows: list[Length]) -> str:
    return listed([row.place for row in rows])


def _find_in_prompts(raw: RawRecipe, lengths, sample: Sample, positions: int | None) -> list[Finding]:
    """PPO: a prompt must leave positions for a reply; not checked if the context length is unknown."""
    reply = raw.values["train"].get("response_length", 53)  # trl's default
    if positions is None:
        return []
    room = positions - reply
    where = raw.places.get("train.response_length", raw.places.get("train", ""))
    dropped = [row for row in lengths if row.prompt > room]
    longest = max(row.prompt for row in lengths)
    fix = f"lower train.response_length, or shorten the prompts (the longest has {longest} tokens)"
    if len(dropped) == len(lengths):
        message = f"no prompt fits together with {reply} reply tokens into the model's {positions} positions"
        return [Finding.error("prompts-too-long", message, fix, where)]
    message = (
        f"do not fit together with {reply} reply tokens into the model's {positions} positions: they are "
        "left out"
    )
    return _share("rows-too-long", dropped, sample, message, fix, where)
