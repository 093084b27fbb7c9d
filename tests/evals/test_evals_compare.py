"""Win rate, KL and reward of two models, against numbers worked out by hand."""

import pytest

from lifecycle_recipes.finding import Refusal


@pytest.mark.parametrize(
    ("ours", "theirs", "rate"), [([1], [0], 1), ([0, 0], [1, 0], 0.25), ([0.5, 0.2, 1], [0.5, 0.1, 0], 5 / 6)]
)
def test_win_rate_counts_ties_as_half(ours, theirs, rate):
    from lifecycle_recipes.evals.compare import win_rate

    assert win_rate(ours, theirs) == pytest.approx(rate)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1], [1, 2])])
def test_win_rate_needs_pairs(ours, theirs):
    from lifecycle_recipes.evals.compare import win_rate

    with pytest.raises(ValueError):
        win_rate(ours, theirs)


def test_kl_is_exact(tiny_model_dir, second_model_dir):
    import torch

    from lifecycle_recipes.evals.compare import mean_kl
    from lifecycle_recipes.models.saved import load_saved

    one, two = load_saved(str(tiny_model_dir)), load_saved(second_model_dir)
    prompts, replies = [[5, 6, 7], [8], [9, 10]], [[11, 12], [13, 14, 15, 16], []]
    total, tokens = 0.0, 0
    for prompt, reply in zip(prompts, replies, strict=True):
        ids = torch.tensor([prompt + reply])
        p, q = (m.model(input_ids=ids).logits.double().softmax(-1)[0].detach() for m in (one, two))
        for i in range(len(reply)):
            at = len(prompt) - 1 + i
            total += sum(p[at, v] * (p[at, v] / q[at, v]).log() for v in range(p.shape[-1])).item()
            tokens += 1
    assert mean_kl(one, two, prompts, replies) == pytest.approx(total / tokens, rel=1e-4)
    assert total / tokens > 0.01
    assert mean_kl(one, one, prompts, replies) == pytest.approx(0, abs=1e-7)


def test_rewards_are_read_at_the_turn_end(tiny_reward_dir):
    from lifecycle_recipes.evals.compare import rewards
    from lifecycle_recipes.models.saved import load_reward

    reward = load_reward(tiny_reward_dir)
    prompts, replies = ["a?", "a much longer question?", "b?"], ["yes", "", "no, not really, not at all"]
    import torch

    expected = []
    for prompt, reply in zip(prompts, replies, strict=True):
        chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
        ids = reward.tokenizer.apply_chat_template(chat)["input_ids"]
        assert reward.tokenizer.decode(ids[-2:]) == "<|im_end|>\n"
        ids = ids[:-1]  # as in reward training
        expected.append(reward.model(input_ids=torch.tensor([ids])).logits.item())
    assert rewards(reward, prompts, replies, batch_size=2) == pytest.approx(expected, abs=1e-5)
    assert len({round(value, 4) for value in expected}) == 3


def test_a_reward_model_without_its_head_is_refused(tiny_model_dir):
    from lifecycle_recipes.models.saved import load_reward

    with pytest.raises(Refusal, match="no-reward-head"):
        load_reward(str(tiny_model_dir))
