"""Align a model to a reward model with PPO: sampled replies, KL to the parent, a penalty for not stopping.

    accelerate launch -m lifecycle_recipes.stages.ppo recipes/desk/06-ppo.yaml

Reads  data.sources (column `prompt`), model.model_name_or_path (the policy's start and the KL reference),
       reward.model_name_or_path, value.model_name_or_path (the reward model where there is no `value`).
Writes train.output_dir: the policy's weights or adapter, tokenizer, run.json.

Upstream's PPOTrainer cannot resume (a stopped run starts again), train a quantised model, clip gradients,
checkpoint activations or evaluate while it trains. A PPO epoch makes num_mini_batches /
gradient_accumulation_steps optimizer steps (at least one), not num_mini_batches.

Metrics: train_kl (nats per reply, mean over the last tenth of the updates); train_score_first and
train_score_last (reward less penalty, mean over the first and the last tenth).
"""

from dataclasses import dataclass, field

from ..data.config import DataConfig
from ..evals.config import EvaluateConfig
from ..finding import refuse


@dataclass
class PPORecipe:
    model: "trl.ModelConfig"  # noqa: F821
    reward: "trl.ModelConfig"  # noqa: F821
    data: DataConfig
    train: "trl.experimental.ppo.PPOConfig"  # noqa: F821
    value: "trl.ModelConfig | None" = None  # noqa: F821
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
        recipe = load_recipe(PPORecipe, argv, check_recipe)
        with Run.start(recipe) as run:
            preflight(recipe, run)
            from ..training.train import train_and_save  # imports torch: a recipe is refused before that

            with upstream_refusals(recipe.raw.path):
                trainer = build_trainer(recipe, run)
            check_built(trainer, recipe, run)
            train_and_save(trainer, recipe, run)
            run.metrics.update(summarise(trainer.state.log_history))
            measure(recipe.train.output_dir, recipe.evaluate, run, recipe.model)


def build_trainer(recipe: PPORecipe, run):
    """The PPOTrainer of this recipe, its saving repaired; the ledger of its rows is noted in `run`."""
    from transformers import GenerationConfig, set_seed

    from ..data.prepare import prepared_rows
    from ..models.adapters import peft_config
    from ..models.load import load_causal_lm, load_tokenizer
    from ..training.train import end_replies_at

    args = recipe.train
    check_arguments(recipe)
    # Upstream shuffles with numpy's global generator, and nothing else seeds that one.
    set_seed(args.seed)
    tokenizer = load_tokenizer(recipe.model.model_name_or_path, recipe.model.model_revision)
    rollout_tokenizer = stop_at_turn_end(
        load_tokenizer(recipe.model.model_name_or_path, recipe.model.model_revision), args
    )
    policy = load_causal_lm(recipe.model, args)
    end_replies_at(policy, rollout_tokenizer)
    reply_config = policy.generation_config
    # A parent's repetition_penalty, top_p or bad words would change the sampled log-probabilities but not the
    # reference's: the KL would not start at 0.
    policy.generation_config = GenerationConfig(pad_token_id=tokenizer.pad_token_id)
    longest = room(policy, args.response_length)
    rows = prepared_rows(recipe, rollout_tokenizer, prepare_rows, run, longest=longest)
    return policy_trainer(reply_config, tokenizer)(
        args=args,
        processing_class=rollout_tokenizer,
        model=policy,
        ref_model=load_causal_lm(recipe.model, args),
        reward_model=load_scorer(recipe.reward, args, "reward"),
        value_model=load_scorer(recipe.value or recipe.reward, args, "value"),
        train_dataset=rows.train,
        peft_config=peft_config(recipe.model),
    )


def prepare_rows(recipe: PPORecipe, tokenizer, scratch, longest: int | None) -> tuple:
    """(prompts, None, ledger), tokenised; see data/prepare.py."""
    from ..data.sources import load_data

    train, _, ledger = load_data(recipe.data, ["prompt"], (), recipe.allow, scratch)
    return tokenize_prompts(train, tokenizer, longest, ledger), None, ledger


def load_scorer(model_config, args, role: str):
    """A reward model. An adapter is merged in a directory of its own: `base` belongs to the policy."""
    from copy import copy

    from ..models.load import load_reward_model

    own = copy(args)
    own.output_dir = f"{args.output_dir}/{role}"
    return load_reward_model(model_config, own)


def stop_at_turn_end(tokenizer, args):
    """Make `tokenizer` fit for rollouts: padded on the left, its eos the token that ends a turn.

    train.stop_token_id, if given, is that token; else the chat template's. Upstream's missing_eos_penalty
    looks for the tokenizer's eos and for nothing else.
    """
    from ..models.load import turn_end

    if args.stop_token_id is not None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(args.stop_token_id)
    elif args.stop_token is None and (end := turn_end(tokenizer)):
        tokenizer.eos_token = end
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        raise refuse(
            "pad-is-turn-end",
            f"pad token {tokenizer.pad_token!r} and end-of-turn token {tokenizer.eos_token!r} must differ",
            "set a separate pad token in the tokenizer",
            tokenizer.name_or_path,
        )
    args.stop_token, args.stop_token_id = "eos", None
    tokenizer.padding_side = "left"
    return tokenizer


def check_arguments(recipe: PPORecipe) -> None:
    """Refuse what upstream would ignore; let `max_steps` (updates) set the length, as in other stages."""
    from accelerate import PartialState

    args = recipe.train
    # PPOConfig hides TrainingArguments' property behind a field that is None until its trainer is built.
    args.world_size = PartialState().num_processes
    if any(m and (m.load_in_4bit or m.load_in_8bit) for m in (recipe.model, recipe.reward, recipe.value)):
        raise refuse(
            "ppo-no-quantization", "PPO cannot train quantised models", "remove load_in_4bit, load_in_8bit"
        )
    if str(getattr(args.eval_strategy, "value", args.eval_strategy)) != "no":
        raise refuse("ppo-no-eval", "PPO runs no evaluation during training", "use the `evaluate` section")
    if args.max_steps > 0:
        if args.total_episodes is not None:
            raise refuse(
                "two-lengths",
                "train.max_steps and train.total_episodes both set the training length",
                "keep one",
            )
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        args.total_episodes = args.max_steps * batch * args.world_size


def room(policy, response_length: int) -> int | None:
    """The longest prompt, in tokens, that leaves `response_length` positions; None without a limit."""
    positions = getattr(policy.config.get_text_config(), "max_position_embeddings", None)
    return positions and positions - response_length


def tokenize_prompts(rows, tokenizer, longest: int | None, ledger: dict):
    """Dataset with `input_ids`, generation prompt included; over-long prompts are left out and counted."""
    from ..data.ledger import count_left_out
    from ..data.provenance import ROW

    def tokenize(row):
        prompt = row["prompt"]
        if isinstance(prompt, str):
            return {"input_ids": tokenizer(prompt)["input_ids"]}
        return {
            "input_ids": tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        }

    tokens = rows.map(tokenize, remove_columns=[c for c in rows.column_names if c != ROW])
    kept = tokens if longest is None else tokens.filter(lambda row: len(row["input_ids"]) <= longest)
    if not len(kept):
        raise refuse(
            "prompts-too-long", f"every prompt is longer than {longest} tokens", "lower response_length"
        )
    count_left_out(ledger, f"prompt longer than {longest} tokens", len(tokens) - len(kept))
    return kept


def policy_trainer(reply_config, tokenizer):
    """A PPOTrainer class that saves the policy under every layout, stops when asked and counts its tokens."""
    import gc
    import time
    import warnings

    from accelerate.utils import patch_environment
    from transformers import TrainerCallback
    from transformers.trainer_utils import TrainOutput
    from trl.experimental.ppo import PPOTrainer

    from ..record.run import Stopped

    class LeaveWhenAsked(TrainerCallback):
        """Upstream's loop never looks at `should_training_stop`."""

        def on_step_end(self, args, state, control, **kwargs):
            if control.should_training_stop and state.global_step < state.max_steps:
                raise Stopped(
                    f"at update {state.global_step} of {state.max_steps}; PPO cannot be resumed and starts from "
                    "update 0"
                )

    class PolicyTrainer(PPOTrainer):
        _initial_num_input_tokens_seen = 0  # as in Trainer, which sets it where it could resume

        def __init__(self, args, **parts):
            # Upstream's Accelerator reads the layout's precision alone: train.bf16 and fp16 would do nothing.
            with patch_environment(ACCELERATE_MIXED_PRECISION=args.mixed_precision):
                super().__init__(args=args, **parts)

        def train(self, resume_from_checkpoint=None):
            self.add_callback(LeaveWhenAsked())
            self.accelerator.print = lambda *_: None  # "===training policy==="
            warnings.filterwarnings("ignore", message="var.*degrees of freedom")  # of one ratio per update
            seen = count_tokens(self.model)
            # Upstream collects garbage twice per update: 0.3 s each with the imported libraries' objects, 5 %
            # of a desk run, and next to nothing once those are set aside.
            gc.collect()
            gc.freeze()
            started = time.perf_counter()
            super().train()
            seconds = time.perf_counter() - started
            gc.unfreeze()
            self.state.num_input_tokens_seen = self.accelerator.reduce(seen.to(self.args.device)).item()
            losses = [entry["loss"] for entry in self.state.log_history if "loss" in entry]
            return TrainOutput(
                self.state.global_step, sum(losses) / max(len(losses), 1), {"train_runtime": seconds}
            )

        def log(self, logs, start_time=None):
            # Under the name that the checks for a non-finite loss know.
            if "loss/policy_avg" in logs:
                logs["loss"] = logs["loss/policy_avg"] + self.args.vf_coef * logs["loss/value_avg"]
            super().log(logs, start_time)

        def save_model(self, output_dir=None, _internal_call=False):
            # Upstream's hands the wrapped pair of models to Trainer: under DDP the names are wrong, under
            # ZeRO it dies. Gathering is collective, so every rank takes part.
            weights = self.accelerator.get_state_dict(self.model)
            policy = self.accelerator.unwrap_model(self.model).policy
            if not self.args.should_save:
                return
            output_dir = output_dir or self.args.output_dir
            policy.save_pretrained(
                output_dir,
                state_dict={
                    k.removeprefix("policy."): v for k, v in weights.items() if k.startswith("policy.")
                },
            )
            reply_config.save_pretrained(output_dir)  # over the one for rollouts
            tokenizer.save_pretrained(output_dir)

    return PolicyTrainer


def count_tokens(model):
    """A running count, in a tensor, of the non-padding tokens that `model` is trained on in this process."""
    import torch

    seen = torch.zeros((), dtype=torch.long)

    def count(module, args, kwargs):
        seen.add_(kwargs["attention_mask"].sum().cpu())

    # Rollouts call the policy inside the pair of models, so only the optimisation passes here.
    model.register_forward_pre_hook(count, with_kwargs=True)
    return seen


def summarise(log_history: list[dict]) -> dict[str, float]:
    """train_kl, train_score_first and train_score_last of PPO's log: means over a tenth of the updates."""
    updates = [entry for entry in log_history if "objective/kl" in entry]
    tenth = max(1, len(updates) // 10)

    def mean(key, part):
        return sum(entry[key] for entry in part) / len(part)

    return {
        "train_kl": mean("objective/kl", updates[-tenth:]),
        "train_score_first": mean("objective/scores", updates[:tenth]),
        "train_score_last": mean("objective/scores", updates[-tenth:]),
    }


if __name__ == "__main__":
    main()
