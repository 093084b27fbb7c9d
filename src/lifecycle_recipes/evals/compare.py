"""Comparison of two models by their replies: win rate, reward and KL."""

from collections.abc import Sequence

from ..models.saved import Saved
from ..models.turn_end import scored_ids, turn_end_id
from .rubric import as_messages

# Most logits in memory per model: 2**25 floats are 128 MB, and a comparison needs five such arrays.
MOST_LOGITS = 2**25


def win_rate(scores: Sequence[float], against: Sequence[float]) -> float:
    """Share of prompts with a higher score in `scores` than in `against`; a tie counts half. 0.5: equal."""
    if not scores or len(scores) != len(against):
        raise ValueError(f"win rate needs two equally long lists, not {len(scores)} and {len(against)}")
    points = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(scores, against, strict=True))
    return points / len(scores)


def length_controlled_win_rate(
    scores: Sequence[float],
    against: Sequence[float],
    lengths: Sequence[int],
    lengths_against: Sequence[int],
) -> float:
    """The win rate without the share that length explains. 0.5: neither is better.

    lengths: of the replies, in any unit. Source: AlpacaEval 2 (arXiv:2404.04475): a logistic regression of
    the outcome on tanh(difference of lengths / its standard deviation), evaluated at equal lengths.
    """
    import numpy as np

    plain = win_rate(scores, against)
    difference = np.subtract(lengths, lengths_against).astype(float)
    if plain in (0.0, 1.0) or not difference.std():
        return plain
    from sklearn.linear_model import LogisticRegression

    outcome = (np.sign(np.subtract(scores, against)) + 1) / 2
    feature = np.tanh(difference / difference.std())
    # Every prompt is a win, weighted with its outcome, and a loss, weighted with the rest; a tie is half of
    # each. The ridge penalty (1 / C) bounds the weight of the length, which would be infinite if length
    # separated all wins from all losses. The intercept has no penalty.
    model = LogisticRegression(C=100.0, tol=1e-10, max_iter=1000)
    won = np.repeat([1, 0], len(feature))
    model.fit(np.tile(feature, 2)[:, None], won, sample_weight=np.concatenate([outcome, 1 - outcome]))
    return float(model.predict_proba([[0.0]])[0, 1])


def rewards(reward: Saved, prompts: list, replies: Sequence[str], batch_size: int) -> list[float]:
    """The reward model's score of each reply (a logit, no unit), rendered as in reward training."""
    import torch

    tokenizer, model = reward.tokenizer, reward.model
    chats = [
        [*as_messages(prompt), {"role": "assistant", "content": str(reply)}]
        for prompt, reply in zip(prompts, replies, strict=True)
    ]
    end = turn_end_id(tokenizer)
    rows = [scored_ids(tokenizer, chat, end) for chat in chats]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    scores: dict[int, float] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        # The score is read at the last token that is not padding, so the padding is on the right.
        ids, mask = _pad([rows[i] for i in batch], model.config.pad_token_id, model.device)
        with torch.inference_mode():
            logits = model(input_ids=ids, attention_mask=mask).logits.float()[:, 0].tolist()
        scores.update(zip(batch, logits, strict=True))
    return [scores[i] for i in range(len(rows))]


def mean_kl(model: Saved, against: Saved, prompts: list[list[int]], replies: list[Sequence[int]]) -> float:
    """KL(model || against) in nats, exact over the vocabulary, mean over all reply tokens.

    prompts, replies: token ids; the replies are those of `model`. The stop token is included.
    NaN if no reply has a token.
    """
    import torch

    pairs = [(p, list(r)) for p, r in zip(prompts, replies, strict=True) if len(r)]
    pairs.sort(key=lambda pair: -len(pair[0]) - len(pair[1]))
    total, tokens = 0.0, 0
    vocabulary = min(model.model.config.vocab_size, against.model.config.vocab_size)
    while pairs:
        length = len(pairs[0][0]) + len(pairs[0][1])
        size = max(1, MOST_LOGITS // (length * vocabulary))
        batch, pairs = pairs[:size], pairs[size:]
        ids, mask = _pad([p + r for p, r in batch], model.tokenizer.pad_token_id, model.model.device)
        with torch.inference_mode():
            # Rows beyond the tokenizer's ids are padding of the embedding, and their number may differ.
            p = _log_probabilities(model, ids, mask, vocabulary)
            q = _log_probabilities(against, ids, mask, vocabulary)
            per_token = (p.exp() * (p - q)).sum(-1).cpu()
        for row, (prompt, reply) in enumerate(batch):
            # The logits at position i predict token i + 1.
            first = len(prompt) - 1
            total += per_token[row, first : first + len(reply)].double().sum().item()
            tokens += len(reply)
    return total / tokens if tokens else float("nan")


def _log_probabilities(saved: Saved, ids, mask, vocabulary: int):
    """[rows, tokens, vocabulary], in float32 for any dtype of the model, on the device of `ids`."""
    model = saved.model
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).logits
    return logits[..., :vocabulary].float().log_softmax(-1).to(ids.device)


def _pad(rows: list[list[int]], pad: int, device):
    """(ids, mask), both [rows, longest], padded on the right."""
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask
