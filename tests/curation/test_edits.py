"""Edits of several steps on one row are made at their places in the raw text."""

import pytest

from lifecycle_recipes.curation.documents import Edit
from lifecycle_recipes.curation.rows import apply


@pytest.mark.parametrize("turned", [False, True])
def test_a_mask_in_a_removed_line_is_removed_with_it(turned):
    row = {"text": "a@b.org is our menu\nGrüße an c@d.org"}
    steps = [
        ("row", (Edit(0, 20, "", "menu"),)),
        ("row", (Edit(0, 7, "<EMAIL>", ""), Edit(29, 36, "<EMAIL>", ""))),
    ]
    apply(steps[::-1] if turned else steps, row)
    assert row["text"] == "Grüße an <EMAIL>"


def test_edits_of_prompt_and_reply_are_made_in_their_parts():
    row = {
        "messages": [
            {"role": r, "content": f"{c}: a@b.org"} for r, c in (("user", "你"), ("assistant", "me"))
        ]
    }
    prompt, reply = (("prompt", (Edit(3, 10, "<P>", ""),)), ("reply", (Edit(4, 11, "<R>", ""),)))
    apply([reply, prompt], row)
    assert [m["content"] for m in row["messages"]] == ["你: <P>", "me: <R>"]
