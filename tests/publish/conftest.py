"""The export stage, run on a recipe that is written on the spot."""

import json
from pathlib import Path

import pytest
import yaml

from lifecycle_recipes.stages.export import main


@pytest.fixture
def export(tmp_path):
    """Runs the stage on a model, or a model section; returns (exit status, its directory, its record)."""

    def run(model, *arguments, **settings) -> tuple[int, Path, dict]:
        prompts = tmp_path / "prompts.jsonl"
        rows = [{"prompt": f"Which colour is service {i}?"} for i in range(6)]
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = tmp_path / "exported"
        recipe = {
            "stage": "export",
            "model": model if isinstance(model, dict) else {"model_name_or_path": str(model)},
            "export": {"output_dir": str(out), "prompts": str(prompts), "max_new_tokens": 8} | settings,
        }
        file = tmp_path / "export.yaml"
        file.write_text(yaml.safe_dump(recipe))
        status = 0
        try:
            main([str(file), *arguments])
        except SystemExit as end:
            status = end.code or 0
        record = json.loads((out / "run.json").read_text()) if (out / "run.json").exists() else {}
        return status, out, record

    return run
