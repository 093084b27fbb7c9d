"""Replies: where they stop, how they are batched, and when they are taken from beside the model."""

import shutil
from pathlib import Path


def answer(path: str, prompts: list[str], max_new_tokens: int = 12, **settings):
    from lifecycle_recipes.evals.replies import Replies, encode, render
    from lifecycle_recipes.models.saved import load_saved

    replies = Replies(load_saved(path), batch_size=2)
    ids = [encode(replies.saved.tokenizer, render(replies.saved.tokenizer, p, True), True) for p in prompts]
    return replies, replies.answer(ids, max_new_tokens, **settings)


def test_a_reply_knows_whether_it_stopped(scripted):
    _, (stopped,) = answer(scripted("red", ends=True), ["Which?"])
    assert stopped == "red" and stopped.stopped
    _, (running,) = answer(scripted("red", ends=False), ["Which?"])
    assert running.startswith("red") and not running.stopped and len(running.ids) == 12
    # The stop token counts as generated: the KL over a reply covers the decision to stop.
    assert stopped.ids[-1] not in running.ids and len(stopped.ids) < 12


def test_a_stop_token_that_comes_last_still_stops(scripted):
    path = scripted("red", ends=True)
    _, (reply,) = answer(path, ["Which?"])
    _, (exact,) = answer(path, ["Which?"], max_new_tokens=len(reply.ids))
    _, (short,) = answer(path, ["Which?"], max_new_tokens=len(reply.ids) - 1)
    assert exact.stopped and not short.stopped


def test_until_ends_a_reply(scripted):
    _, (reply,) = answer(scripted("It is red", ends=True), ["Which?"], until=["re"])
    assert reply == "It is " and reply.stopped


def test_batching_and_order_do_not_change_replies(tiny_model_dir, tmp_path):
    prompts = [f"Which colour is service {i}?" * (1 + i) for i in range(7)]  # no two equally long
    _, together = answer(str(tiny_model_dir), prompts)
    alone = [answer(str(tiny_model_dir), [prompt])[1][0] for prompt in prompts]
    assert together == alone


def test_a_template_that_writes_its_own_bos_gets_no_second(tiny_tokenizer_dir):
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    from lifecycle_recipes.evals.replies import encode, render

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    bos = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{tokenizer.bos_token} $A", special_tokens=[(tokenizer.bos_token, bos)]
    )
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    ids = encode(tokenizer, render(tokenizer, "a?", True), True)
    assert ids.count(bos) == 1 and ids[0] == bos
    assert encode(tokenizer, render(tokenizer, "a?", False), False)[0] == bos


def test_a_prompt_is_answered_once(tiny_model_dir):
    replies, first = answer(str(tiny_model_dir), ["a?", "b?", "a?"])
    assert replies.generated == 2 and first[0] == first[2]


def test_a_prompt_that_leaves_no_room_gets_no_reply(tiny_model_dir):
    replies, (short, long) = answer(str(tiny_model_dir), ["a?", "word " * 300])
    assert replies.overlong == 1 and long == "" and not long.stopped and short.ids


def test_replies_are_kept_beside_the_model_until_it_changes(tiny_model_dir, second_model_dir, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(tiny_model_dir, path)
    replies, first = answer(str(path), ["a?", "b?"])
    replies.keep()
    again, kept = answer(str(path), ["b?", "a?"])
    assert again.generated == 0 and kept == first[::-1]
    assert [r.ids for r in kept] == [r.ids for r in first[::-1]]
    other_length, _ = answer(str(path), ["a?"], max_new_tokens=5)
    assert other_length.generated == 1
    shutil.copy(Path(second_model_dir) / "model.safetensors", path)
    changed, _ = answer(str(path), ["a?"])
    assert changed.generated == 1


def test_a_damaged_cache_is_not_used(tiny_model_dir, tmp_path):
    path = tmp_path / "model"
    shutil.copytree(tiny_model_dir, path)
    (path / "replies.json").write_text('{"origin": ')
    replies, _ = answer(str(path), ["a?"])
    assert replies.generated == 1
