"""The training log as readable lines: one entry of upstream's log is one line. No torch."""

from ..report.numbers import amount, clock

# Upstream's name -> ours, in the order of the line. All values are in trainer_state.json and in the trackers.
SHOWN = {
    "loss": "loss",
    "perplexity": "perplexity",
    "bits_per_byte": "bits/byte",
    "mean_token_accuracy": "token accuracy",  # sft
    "accuracy": "accuracy",  # reward
    "margin": "margin",
    "rewards/accuracies": "accuracy",  # dpo
    "rewards/margins": "margin",  # dpo, kto
    "kl": "kl",  # kto
    "objective/kl": "kl",  # ppo
    "objective/scores": "score",
    "aux_loss": "aux loss",  # mixtures of experts
    "grad_norm": "grad",
    "learning_rate": "lr",
    "lr": "lr",  # ppo
}
SPEED = "train_tokens_per_second"


def log_line(logs: dict, step: int, steps: int, seconds_left: float | None = None) -> str | None:
    """The line of one log entry; None for an entry without a value to show, such as upstream's timings.

    step: the optimizer step, of `steps`. seconds_left: until the last step; None if unknown.
    """
    held_out = any(name.startswith("eval_") for name in logs)
    values = {name.removeprefix("eval_") if held_out else name: value for name, value in logs.items()}
    shown = [f"{ours} {written(values[name], name)}" for name, ours in SHOWN.items() if name in values]
    if not shown or "train_loss" in logs:
        return None
    parts = [f"{'eval' if held_out else 'step'} {step}/{steps}", *shown]
    if held_out and "runtime" in values:
        parts.append(f"in {clock(values['runtime'])}")
    if not held_out and SPEED in values:
        parts.append(f"{values[SPEED]:,.0f} tok/s")
    if not held_out and seconds_left is not None and step < steps:
        parts.append(f"{clock(seconds_left)} left")
    return "  ".join(parts)


def written(value: float, name: str = "") -> str:
    """Three decimals; an exponent for a learning rate and for what three decimals cannot show."""
    small = 0 < abs(value) < 0.001 or abs(value) >= 100_000
    return f"{value:.1e}" if small or name in ("learning_rate", "lr") else f"{value:.3f}"


def start_line(
    trained: int, parameters: int, rows: int | None, step: int, steps: int, batch: int, tokens: int | None
) -> str:
    """What is about to be trained. rows: None for a stream. batch: rows per step. tokens: of one row, if known."""
    which = "all" if trained == parameters else f"{trained / parameters:.2%} of {amount(parameters).strip()}"
    parts = [f"training {amount(trained).strip()} parameters ({which})"]
    parts += [] if rows is None else [f"{rows:,} rows"]
    parts.append(f"{steps:,} steps of {batch:,} rows")
    if tokens:
        parts.append(f"about {tokens * batch:,} tokens per step")
    if step:
        parts.append(f"resumed at step {step:,}")
    return ", ".join(parts)
