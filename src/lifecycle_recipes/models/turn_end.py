"""The tokens that a reward model reads."""


def scored_ids(tokenizer, messages: list[dict], turn_end_id: int) -> list[int]:
    """Token ids of a conversation up to and including its last turn end.

    Templates write more behind it (a newline in ChatML). A reward is read at the last token, and PPO's
    replies stop at the turn end: a reward model trained on the newline would be read where it never trained.
    """
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    if turn_end_id not in ids:
        return ids
    return ids[: len(ids) - ids[::-1].index(turn_end_id)]
