"""Warnings from the training log: problems that are easy to miss in the loss curve. No torch."""

from statistics import median

from ..finding import Finding, Refusal

SPIKE, EARLIER = (
    10,
    5,
)  # a gradient norm so many times the median of the logged ones, and of how many at least
RISES = 3  # consecutive evaluations with a higher loss than the one before


class LogSigns:
    """Reads log entries one by one; reports each warning once.

    kl_bound: nats per reply, or None. zero_loss_is_fine: a hinge loss is 0 once every margin is wide enough.
    """

    def __init__(self, kl_bound: float | None = None, zero_loss_is_fine: bool = False):
        self.kl_bound, self.zero_loss_is_fine = kl_bound, zero_loss_is_fine
        self.norms: list[float] = []
        self.eval_losses: list[float] = []
        self.told: set[str] = set()

    def see(self, logs: dict, step: int) -> list[Finding]:
        """The findings in this log entry that were not reported before."""
        readers = (self._loss, self._norm, self._eval, self._kl)
        found = [finding for read in readers for finding in read(logs, step)]
        fresh = [finding for finding in found if finding.code not in self.told]
        self.told |= {finding.code for finding in fresh}
        return fresh

    def _loss(self, logs: dict, step: int):
        if logs.get("loss") == 0 and not self.zero_loss_is_fine:
            message = f"the loss is exactly 0 at step {step}: the model does not learn"
            fix = "check with `lifecycle inspect` that the batches have supervised tokens, "
            fix += "and that train.loss_weights, if set, is not 0"
            yield Finding.warning("zero-loss", message, fix)

    def _norm(self, logs: dict, step: int):
        norm = logs.get("grad_norm")
        if norm is None:
            return
        usual = median(self.norms) if len(self.norms) >= EARLIER else None
        self.norms.append(norm)
        if usual and norm > SPIKE * usual:
            message = (
                f"the gradient norm is {norm:.3g} at step {step}, {norm / usual:.0f} times its median so far"
            )
            fix = "check the loss after this step; lower train.learning_rate or train.max_grad_norm"
            yield Finding.warning("gradient-spike", message, fix)

    def _eval(self, logs: dict, step: int):
        if "eval_loss" not in logs:
            return
        self.eval_losses.append(logs["eval_loss"])
        last = self.eval_losses[-RISES - 1 :]
        if len(last) > RISES and all(a < b for a, b in zip(last, last[1:], strict=False)):
            message = (
                f"the validation loss has risen {RISES} times in a row, to {last[-1]:.4g} at step {step}"
            )
            fix = (
                f"the model overfits: stop near the lowest value ({min(self.eval_losses):.4g}) with a lower "
            )
            fix += "train.max_steps or with early_stopping, or set train.load_best_model_at_end"
            yield Finding.warning("eval-loss-rising", message, fix)

    def _kl(self, logs: dict, step: int):
        """For PPO only. KTO's `kl`, also in nats per reply, does not measure the distance to the parent.

        It is the mean log-ratio of the data's replies after other prompts, never below 0: the reference point
        for the rewards in its loss (trl/trainer/kto_trainer.py). It tends to fall as the model moves away: on
        the desk from 1.6 to 0.1, while the KL on the model's own replies rose to 12.
        """
        kl = logs.get("objective/kl")
        if kl is not None and self.kl_bound is not None and kl > self.kl_bound:
            message = (
                f"KL to the parent is {kl:.3g} nats per reply at step {step}, above the bound "
                f"{self.kl_bound:.3g}"
            )
            fix = "raise train.kl_coef or lower train.learning_rate; the bound is in the gate of the recipe"
            yield Finding.warning("kl-past-bound", message, fix)


def kl_bound(gate: list[str], reply_tokens: int | None) -> float | None:
    """The gate's bound in nats per reply: `train_kl <= x`, or `kl <= x` (per token) times `reply_tokens`."""
    from ..record.gate import parse

    found = []
    for text in gate:
        try:
            line = parse(text)
        except Refusal:
            continue
        if line.compare not in ("<", "<=") or line.change or not isinstance(line.term, float):
            continue
        if line.metric == "train_kl":
            found.append(line.term)
        elif line.metric == "kl" and reply_tokens:
            found.append(line.term * reply_tokens)
    return min(found, default=None)
