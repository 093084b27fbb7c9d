"""Fine-tune on conversations: the loss covers the assistant's tokens and its turn end, nothing else.

    accelerate launch -m lifecycle_recipes.stages.sft recipes/desk/04-sft.yaml

Reads  data.sources (column `messages`), model.model_name_or_path.
Writes train.output_dir: weights or adapter, tokenizer, checkpoints, run.json.
"""

from dataclasses import dataclass, field

from ..data.config import DataConfig
from ..evals.config import EvaluateConfig
from ..finding import refuse


@dataclass
class SFTRecipe:
    model: "trl.ModelConfig"  # noqa: F821
    data: DataConfig
    train: "trl.SFTConfig"  # noqa: F821
    evaluate: EvaluateConfig | None = None
    global_batch_size: int | None = None
    gate: list[str] = field(default_factory=list)
    allow: dict[str, str] = field(default_factory=dict)
    pinned: dict[str, str] = field(default_factory=dict)


def main(argv: list[str] | None = None) -> None:
    from ..doctor.check import check_built, check_recipe, preflight
    from ..doctor.trainer_level.trial_build import upstream_refusals
    from ..evals.measure import measure
    from ..recipe.read import load_recipe
    from ..record.run import Run, stage_exit

    with stage_exit():
        recipe = load_recipe(SFTRecipe, argv, check_recipe)
        with Run.start(recipe) as run:
            preflight(recipe, run)
            from ..training.train import train_and_save  # imports torch: a recipe is refused before that

            with upstream_refusals(recipe.raw.path):
                trainer = build_trainer(recipe, run)
            check_built(trainer, recipe, run)
            train_and_save(trainer, recipe, run)
            measure(recipe.train.output_dir, recipe.evaluate, run, recipe.model)


def build_trainer(recipe: SFTRecipe, run):
    """The `trl.SFTTrainer` of this recipe; the ledger of its rows is noted in `run`.

    `assistant_only_loss` is always on: upstream's default trains on the user's turns.
    """
    from transformers import set_seed
    from trl import SFTTrainer

    from ..data.prepare import over_prepared, prepared_rows
    from ..models.adapters import peft_config
    from ..models.load import load_causal_lm, load_tokenizer, turn_end, use_template

    args = recipe.train
    args.assistant_only_loss = True
    tokenizer = load_tokenizer(recipe.model.model_name_or_path, recipe.model.model_revision)
    use_template(tokenizer, args.chat_template_path)
    if not tokenizer.chat_template and not args.chat_template_path:
        raise refuse(
            "no-chat-template", "the parent's tokenizer has no chat template", "set train.chat_template_path"
        )
    # A chat model's eos is its turn end: generation then stops there for every user of the tokenizer.
    args.eos_token = args.eos_token or turn_end(tokenizer)
    adapter = peft_config(recipe.model)
    rows = prepared_rows(recipe, tokenizer, prepare_rows, run)
    set_seed(args.seed)
    # Upstream wants to see conversations where it masks them itself; packed rows are none.
    args.assistant_only_loss = False
    trainer = over_prepared(SFTTrainer)(
        model=load_causal_lm(recipe.model, args),
        args=args,
        train_dataset=rows.train,
        eval_dataset=rows.held_out,
        processing_class=tokenizer,
        peft_config=adapter,
    )
    args.assistant_only_loss = True
    return trainer


def prepare_rows(recipe: SFTRecipe, tokenizer, scratch) -> tuple:
    """(train, held-out, ledger), tokenised and masked as upstream does it; see data/prepare.py."""
    from trl import SFTTrainer

    from ..data.prepare import rows_of_trainer
    from ..data.sources import load_data

    train, held_out, ledger = load_data(recipe.data, ["messages"], ["tools"], recipe.allow, scratch)
    done = rows_of_trainer(SFTTrainer, recipe.train, tokenizer, train, held_out)
    account_for_rows(ledger, recipe.train, tokenizer.eos_token_id, (train, held_out), done)
    return *done, ledger


def account_for_rows(ledger: dict, args, end: int, before: tuple, after: tuple) -> None:
    """Book the rows that upstream dropped, and count those it cut short; refuse if none is left.

    before, after: (train, held-out or None) as read and as prepared. end: the id that ends a turn.
    """
    from ..data.ledger import count_left_out

    parts = [part for part in after if part is not None]
    conversations = [list(pieces(part)) for part in parts]
    # Packing leaves no conversation out; bfd_split and wrapped make several pieces of one and lose no token.
    packed = [args.packing, args.packing if args.eval_packing is None else args.eval_packing]
    gone = [
        0 if pack else len(rows) - len(kept)
        for rows, kept, pack in zip(before, conversations, packed, strict=False)
    ]
    count_left_out(ledger, "no assistant token within train.max_length", *gone)
    if not all(conversations):
        raise refuse(
            "no-trained-tokens",
            "no row has a supervised token within train.max_length",
            "raise train.max_length",
        )
    whole = args.packing and args.packing_strategy != "bfd"
    # The template may write a line break after the turn end.
    ledger["truncated"] = 0 if whole else sum(end not in ids[-2:] for ids in conversations[0])
    ledger["tokens"] = sum(map(len, conversations[0]))


def pieces(dataset):
    """The conversations of a prepared dataset, each a list of ids, packed (seq_lengths) or not."""
    for row in dataset:
        start = 0
        for length in row.get("seq_lengths") or [len(row["input_ids"])]:
            yield row["input_ids"][start : start + length]
            start += length


if __name__ == "__main__":
    main()
