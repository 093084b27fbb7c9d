"""PPOTrainer with repaired saving: TRL's code fails under DDP and ZeRO with transformers 5.24."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import trl
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments


def policy_trainer(reply_config, tokenizer: PreTrainedTokenizerBase):
    """A PPOTrainer class that saves the policy under every layout, stops on request and counts its tokens."""
    import gc
    import time
    import warnings

    from accelerate.utils import patch_environment
    from transformers import TrainerCallback
    from transformers.trainer_utils import TrainOutput
    from trl.experimental.ppo import PPOTrainer

    from ..record.run import Stopped

    class LeaveWhenAsked(TrainerCallback):
        """Needed since upstream's loop never reads `should_training_stop`."""

        def on_step_end(self, args, state, control, **kwargs):
            if control.should_training_stop and state.global_step < state.max_steps:
                raise Stopped(
                    f"at update {state.global_step} of {state.max_steps}; PPO starts again from update 0"
                )

    class PolicyTrainer(PPOTrainer):
        def __init__(self, args, **parts):
            # Upstream's Accelerator reads only the layout's precision, and neither train.bf16 nor fp16.
            with patch_environment(ACCELERATE_MIXED_PRECISION=args.mixed_precision):
                super().__init__(args=args, **parts)

        def train(self, resume_from_checkpoint=None):
            self.add_callback(LeaveWhenAsked())
            self.accelerator.print = lambda *_: None  # "===training policy==="
            warnings.filterwarnings("ignore", message="var.*degrees of freedom")  # of one ratio per update
            seen = count_tokens(self.model)
            # Upstream collects garbage twice per update. Each time takes 0.3 s with the objects of the
            # imported libraries (5 % of a desk run), and almost none once those are frozen.
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
            # The name that the checks for a non-finite loss use.
            if "loss/policy_avg" in logs:
                logs["loss"] = logs["loss/policy_avg"] + self.args.vf_coef * logs["loss/value_avg"]
            super().log(logs, start_time)

        def save_model(self, output_dir=None, _internal_call=False):
            # Upstream passes the wrapped pair of models to Trainer: under DDP the names are wrong, under ZeRO
            # it fails. Gathering is collective, so every rank must call it.
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
            reply_config.save_pretrained(output_dir)  # replaces the config for rollouts
            tokenizer.save_pretrained(output_dir)

    return PolicyTrainer


def count_tokens(model: PreTrainedModel):
    """A tensor with the running count of non-padding tokens on which `model` is trained in this process."""
    import torch

    seen = torch.zeros((), dtype=torch.long)

    def count(module, args: TrainingArguments, kwargs):
        seen.add_(kwargs["attention_mask"].sum().cpu())

    # Rollouts call the policy inside the pair of models, so only calls for the optimisation are counted.
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


def set_length(args: trl.experimental.ppo.PPOConfig) -> None:
    """Set the length of the run from `max_steps` (updates), as in other stages."""
    from accelerate import PartialState

    # PPOConfig hides TrainingArguments' property behind a field that is None until its trainer is built.
    args.world_size = PartialState().num_processes
    if args.max_steps > 0:
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        args.total_episodes = args.max_steps * batch * args.world_size
