"""A recipe with nothing wrong, and what `lifecycle check` says of it."""

from pathlib import Path

from lifecycle_recipes.doctor import check as doctor

RECIPE = """stage: sft
model:
  model_name_or_path: parent
data:
  sources:
    - path: rows.jsonl
train:
  output_dir: run
  max_steps: 2
  max_length: 128
  report_to: none
  save_strategy: no
"""


def codes(path="sft.yaml", *overrides, upto=1) -> list[tuple[str, str]]:
    return [(f.code, f.severity) for f in doctor.check(path, list(overrides), upto).findings]


def write(text: str, path="sft.yaml") -> str:
    Path(path).write_text(text)
    return path
