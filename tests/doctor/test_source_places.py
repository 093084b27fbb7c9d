"""A fault in an option of a source has the recipe's line, and the file that did not fit is in the message."""

from pathlib import Path

import pytest
from checked import RECIPE, write

from lifecycle_recipes.doctor.check import check


@pytest.mark.parametrize(
    ("source", "code", "line", "message"),
    [
        ("roles: {User: person}", "bad-value", 7, "rows.jsonl: roles: 'User' is mapped to 'person'"),
        ("field: rows", "no-effect", 7, "rows.jsonl: field of this source has no effect"),
        ("columns: {messages: conversation}", "missing-column", 7, "rows.jsonl: no column 'conversation'"),
        (
            "columns: {massages: messages}",
            "unread-column",
            7,
            "rows.jsonl: data.sources[].columns names 'massages'",
        ),
        ("format: sharegpt", "missing-column", 6, "rows.jsonl: no column 'conversations'"),
    ],
)
def test_an_option_of_a_source_has_its_line(recipe_here, source, code, line, message):
    write(RECIPE.replace("path: rows.jsonl\n", f"path: rows.jsonl\n      {source}\n"))
    (finding,) = check("sft.yaml", upto=1).errors
    assert (finding.code, finding.where) == (code, f"sft.yaml:{line}") and message in finding.message


def test_the_file_of_a_directory_that_does_not_fit_is_named(recipe_here):
    Path("rows").mkdir()
    Path("rows.jsonl").rename("rows/a.jsonl")
    Path("rows/b.jsonl").write_text('{"text": "a"}\n')
    write(RECIPE.replace("path: rows.jsonl", "path: rows"))
    (finding,) = check("sft.yaml", upto=1).errors
    assert finding.where == "sft.yaml:6" and finding.message.startswith("rows/b.jsonl: no column 'messages'")


def test_no_sources_are_named_at_level_1(recipe_here):
    write(RECIPE.replace("  sources:\n    - path: rows.jsonl\n", "  sources: []\n"))
    report = check("sft.yaml")
    assert [(f.code, f.where) for f in report.errors] == [("no-rows", "sft.yaml:5")]
    assert report.reached == 1
