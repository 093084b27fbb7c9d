"""Conversations tokenised in batches are those that upstream tokenises one by one."""

import pytest

from lifecycle_recipes.data.conversations import tokenize_in_batches
from lifecycle_recipes.data.prepare import rows_of_trainer

pytestmark = pytest.mark.model

ASK, ANSWER = {"role": "user", "content": "Who owns it?"}, {"role": "assistant", "content": "Team A."}
SYSTEM = {"role": "system", "content": "Answer briefly."}


@pytest.fixture
def tokenizer(chat_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(chat_model)


@pytest.fixture
def args(tmp_path):
    from trl import SFTConfig

    return SFTConfig(
        output_dir=str(tmp_path), assistant_only_loss=True, max_length=None, report_to=[], bf16=False
    )


def rows_of(*conversations):
    from datasets import Dataset

    return Dataset.from_list([{"messages": list(messages)} for messages in conversations])


def test_same_rows_as_upstream(tokenizer, args):
    from trl import SFTTrainer

    read = rows_of([ASK, ANSWER], [SYSTEM, ASK, ANSWER, ASK, ANSWER], [ASK, {**ANSWER, "content": " é\n"}])
    in_batches = tokenize_in_batches(read, args, tokenizer, tokenizer.chat_template)
    one_by_one = []

    def tokenize(rows, upstream, template, name):
        one_by_one.append(upstream(rows))
        return one_by_one[0]

    rows_of_trainer(SFTTrainer, args, tokenizer, read, None, tokenize)
    assert in_batches.features == one_by_one[0].features
    assert in_batches.to_list() == one_by_one[0].to_list()


def test_rows_for_upstream(tokenizer, args):
    """It refuses a row without a supervised token, and reads the tools of each row."""
    silent = rows_of([ASK, ANSWER], [ASK])
    assert tokenize_in_batches(silent, args, tokenizer, tokenizer.chat_template) is silent
    tools = rows_of([ASK, ANSWER]).add_column("tools", ["[]"])
    assert tokenize_in_batches(tools, args, tokenizer, tokenizer.chat_template) is tools
