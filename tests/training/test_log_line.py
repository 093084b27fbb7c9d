"""One entry of upstream's log is one readable line. The entries were recorded with TRL 1.12."""

import pytest

from lifecycle_recipes.report.numbers import amount, clock
from lifecycle_recipes.training.log_line import log_line, start_line

SFT = {"entropy": 0.77, "epoch": 1.71, "grad_norm": 1.6703, "learning_rate": 8.3333e-05, "loss": 1.20039}
SFT |= {"mean_token_accuracy": 0.76526, "num_tokens": 4174.0, "train_runtime": 2.19}
SFT |= {"num_input_tokens_seen": 4174, "train_tokens_per_second": 2689.6}
SFT_EVAL = {"epoch": 1.7, "eval_loss": 1.2475, "eval_mean_token_accuracy": 0.7341, "eval_runtime": 75.2}
SFT_EVAL |= {"eval_samples_per_second": 94.1, "num_input_tokens_seen": 4174}
PRETRAIN_EVAL = {"eval_loss": 0.56425, "eval_perplexity": 1.7581, "eval_bits_per_byte": 0.1949}
DPO = {"grad_norm": 1.98938, "learning_rate": 0.01, "logps/chosen": -48.49, "loss": 0.48731}
DPO |= {"rewards/accuracies": 0.5, "rewards/chosen": 0.0761, "rewards/margins": 0.56184}
DPO_EVAL = {f"eval_{name}": value for name, value in DPO.items() if "/" in name or name == "loss"}
KTO = {
    "grad_norm": 0.30195,
    "kl": 1.85992,
    "learning_rate": 0.01,
    "loss": 0.40526,
    "rewards/margins": 1.03998,
}
REWARD = {"accuracy": 0.9, "margin": 2.25, "loss": 0.3, "max_reward": 2.0, "learning_rate": 1e-5}
PPO = {"episode": 16, "eps": 25, "loss": 7.21403, "loss/policy_avg": 3.4e-08, "lr": 1e-4, "val/ratio": 1.0}
PPO |= {"objective/kl": 0.23538, "objective/scores": 2.10841, "val/ratio_var": float("nan")}
LINES = [
    (
        SFT,
        "step 40/170  loss 1.200  token accuracy 0.765  grad 1.670  lr 8.3e-05  2,690 tok/s  4:10 left",
    ),
    (SFT_EVAL, "eval 40/170  loss 1.248  token accuracy 0.734  in 1:15"),
    (PRETRAIN_EVAL, "eval 40/170  loss 0.564  perplexity 1.758  bits/byte 0.195"),
    (DPO, "step 40/170  loss 0.487  accuracy 0.500  margin 0.562  grad 1.989  lr 1.0e-02  4:10 left"),
    (DPO_EVAL, "eval 40/170  loss 0.487  accuracy 0.500  margin 0.562"),
    (KTO, "step 40/170  loss 0.405  margin 1.040  kl 1.860  grad 0.302  lr 1.0e-02  4:10 left"),
    (REWARD, "step 40/170  loss 0.300  accuracy 0.900  margin 2.250  lr 1.0e-05  4:10 left"),
    (PPO, "step 40/170  loss 7.214  kl 0.235  score 2.108  lr 1.0e-04  4:10 left"),
    ({"loss": 0.0}, "step 40/170  loss 0.000  4:10 left"),
    ({"loss": 2e-05}, "step 40/170  loss 2.0e-05  4:10 left"),
    ({"loss": float("nan")}, "step 40/170  loss nan  4:10 left"),
    ({"train_loss": 0.94, "train_runtime": 139.9, "total_flos": 1e13}, None),
    ({}, None),
]


@pytest.mark.parametrize(("logs", "line"), LINES)
def test_an_entry_is_a_line(logs, line):
    assert log_line(logs, 40, 170, 250) == line


def test_no_time_is_left_where_it_is_unknown_or_over():
    assert log_line({"loss": 1.0}, 1, 4) == "step 1/4  loss 1.000"
    assert log_line({"loss": 1.0}, 4, 4, 0.0) == "step 4/4  loss 1.000"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            (1_537_440, 1_537_440, 2_720, 0, 340, 16, 46),
            "training 1.5 M parameters (all), 2,720 rows, 340 steps of 16 rows, about 736 tokens per step",
        ),
        (
            (921_600, 135_400_000, None, 120, 1_000, 8, None),
            "training 921.6 k parameters (0.68% of 135.4 M), 1,000 steps of 8 rows, resumed at step 120",
        ),
    ],
)
def test_what_is_trained_is_one_line(arguments, line):
    assert start_line(*arguments) == line


def test_times_and_amounts():
    assert [clock(s) for s in (0, 59.6, 250, 3_600, 100_000)] == [
        "0:00",
        "1:00",
        "4:10",
        "1:00:00",
        "27:46:40",
    ]
    assert [f"{amount(n)}B" for n in (900, 12_345, 6.2e6, 8.03e9)] == ["900 B", "12.3 kB", "6.2 MB", "8.0 GB"]
