"""The `evaluate` section of a recipe: what is measured on a saved model. No torch."""

from dataclasses import dataclass, field

SEED = 1234  # lm-eval's own: of its few-shot draws, and of tasks that sample


@dataclass
class EvaluateConfig:
    """What to measure after the model is saved and reloaded from disk.

    Every result becomes a metric in run.json: `<task>.<metric>` for lm-eval tasks, and `rubric`,
    `rubric_win_rate`, `rubric_win_rate_lc`, `reward`, `reward_against` and `kl` if the keys that they need
    are set.
    """

    tasks: list[str] = field(
        default_factory=list,
        metadata={"help": "lm-eval task names; the metrics are named <task>.<metric>."},
    )
    include_path: str | None = field(
        default=None,
        metadata={
            "help": "Directory of lm-eval task YAMLs; without it, lm-eval's own tasks (they need the Hub)."
        },
    )
    batch_size: int = field(default=64, metadata={"help": "Rows per forward pass and per generation batch."})
    limit: int | None = field(
        default=None, metadata={"help": "Only the first N documents of each task and of `prompts`."}
    )
    chat: bool = field(
        default=True,
        metadata={"help": "Render generation tasks and prompts with the model's chat template."},
    )
    against: str | None = field(
        default=None,
        metadata={"help": "Run directory or Hub id to compare with: rubric win rate, reward and KL."},
    )
    against_revision: str | None = field(
        default=None,
        metadata={"help": "Branch, tag or commit of `against` on the Hub; `pinned` sets it as well."},
    )
    reward_model: str | None = field(
        default=None, metadata={"help": "Reward model (run directory or Hub id) that scores the replies."}
    )
    reward_model_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of `reward_model` on the Hub."}
    )
    prompts: str | None = field(
        default=None,
        metadata={"help": 'A .jsonl file of held-out prompts, {"prompt": text or messages, ...}.'},
    )
    rubric: str | None = field(
        default=None,
        metadata={"help": "Python file with score(row: dict, reply: str) -> float in 0..1."},
    )
    max_new_tokens: int = field(default=96, metadata={"help": "Longest reply to a prompt, in tokens."})
    samples: int = field(
        default=3, metadata={"help": "Replies to the first N prompts kept in run.json for the report."}
    )
    output_dir: str | None = field(
        default=None,
        metadata={"help": "Directory for the record of the evaluate stage; not used by other stages."},
    )
