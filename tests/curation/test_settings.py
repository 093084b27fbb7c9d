"""The settings of a curate recipe, before anything is read: a mistake is refused at its line, with status 2."""

import pytest
from curated import curate, write_rows


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"steps": [{"safety": {"words": "none.txt"}}]}, "missing-file"),
        ({"steps": [{"decontamination": {"against": ["none.jsonl"]}}]}, "missing-file"),
        ({"steps": [{"decontamination": {"against": ["none/*.jsonl"]}}]}, "missing-file"),
        ({"tokenizer": "./none"}, "parent-missing"),
        ({"executor": {"kind": "slurm", "partition": "cpu"}}, "missing-key"),
        ({"executor": {"partition": "cpu"}}, "no-effect"),
        ({"keep": ["id"]}, "bad-value"),
        ({"keep": ["url", "source"]}, "bad-value"),
    ],
    ids=str,
)
def test_a_mistake_is_refused_at_its_line(tmp_path, capsys, given, code):
    file = write_rows(tmp_path / "a.jsonl", [{"text": "One text.", "id": 7, "url": "u"}])
    done = curate(tmp_path, [file], **given)
    error = capsys.readouterr().err
    assert done.status == 2 and f"[{code}]" in error and "Traceback" not in error
    assert f"{tmp_path / 'curate.yaml'}:" in error


def test_a_kept_column_cannot_hide_the_messages(tmp_path, capsys):
    chat = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Write to a.b@acme.com."}]
    file = write_rows(tmp_path / "a.jsonl", [{"messages": chat, "text": "A summary of it."}])
    done = curate(tmp_path, [file], kind="messages", keep=["text"], steps=[{"personal_data": {}}])
    assert done.status == 2 and "curate.keep names 'text'" in capsys.readouterr().err
