"""Which metrics of a run are worth a look: those its gate names, and the main ones of its stage. No torch."""

from ..finding import Refusal
from ..record.gate import parse

# Heading in the card -> metric of a trainer; the most telling one first.
MAIN = {
    "eval loss": "eval_loss",
    "perplexity": "perplexity",
    "eval accuracy": "eval_rewards/accuracies",
    "eval margin": "eval_rewards/margins",
}
# Others that stand for a run without a gate.
OF_A_STAGE = (
    "bytes_per_token",
    "pair_accuracy",
    "rubric",
    "rubric_win_rate",
    "reward",
    "train_kl",
    "train_loss",
)
MOST = 6


def named_by_gate(lines: list[str], metrics: dict) -> list[str]:
    """The metrics of this run in its gate lines, once each and in their order; also those not measured."""
    names = []
    for line in lines:
        try:
            gate = parse(line)
        except Refusal:
            continue
        names += [gate.metric, *([gate.term] if gate.term in metrics else [])]
    return list(dict.fromkeys(names))


def main_metrics(lines: list[str], metrics: dict) -> list[str]:
    """The metrics that the gate names; without a gate, at most MOST of the main ones."""
    if named := named_by_gate(lines, metrics):
        return named
    known = [name for name in (*MAIN.values(), *OF_A_STAGE) if name in metrics]
    return [*known, *(name for name in metrics if "." in name)][:MOST] or list(metrics)[:MOST]
