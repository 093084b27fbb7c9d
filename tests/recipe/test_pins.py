"""`pinned` reaches every id that a recipe names, and that revision is read: with a Hub cache made here."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from checked import RECIPE, codes, write

from lifecycle_recipes.evals.check import check_config
from lifecycle_recipes.evals.config import EvaluateConfig
from lifecycle_recipes.finding import Refusal
from lifecycle_recipes.recipe.read import read_recipe

FIRST, SECOND = "1a" * 20, "2b" * 20
EVALUATE = "evaluate: {prompts: p.jsonl, against: me/parent, reward_model: me/judge}\n"
PINS = f"pinned: {{me/parent: {FIRST}, me/judge: {SECOND}}}\n"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Puts model directories into a Hub cache: hub("me/model", main=first_dir, other=second_dir)."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(identity: str, main, other) -> str:
        repository = tmp_path / "hub" / f"models--{identity.replace('/', '--')}"
        for commit, directory in ((FIRST, main), (SECOND, other)):
            shutil.copytree(directory, repository / "snapshots" / commit)
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text(FIRST)
        return identity

    return put


def test_a_pin_reaches_what_a_model_is_compared_with(recipe_here):
    values = read_recipe(write(RECIPE + EVALUATE + PINS)).values["evaluate"]
    assert (values["against_revision"], values["reward_model_revision"]) == (FIRST, SECOND)
    assert "unused-pin" not in dict(codes())
    own = EVALUATE.replace("}", ", against_revision: main}")
    assert read_recipe(write(RECIPE + own + PINS)).values["evaluate"]["against_revision"] == "main"
    assert dict(codes())["pin-conflict"] == "error"


def test_a_pin_reaches_the_tokenizer_of_a_new_model(recipe_here):
    text = RECIPE.replace("stage: sft", "stage: pretrain").replace("  max_length: 128\n", "")
    text = text.replace(
        "model:\n  model_name_or_path: parent",
        "text: {block_size: 16}\narchitecture: {model_type: llama, tokenizer: me/words}",
    )
    write(text + f"pinned: {{me/words: {SECOND}}}\n")
    assert read_recipe("sft.yaml").values["architecture"]["tokenizer_revision"] == SECOND
    assert "unused-pin" not in dict(codes())


def test_the_tokenizer_of_a_new_model_is_read_at_its_revision(monkeypatch):
    """By the check of its tokens, and by the stage."""
    from transformers import AutoTokenizer

    from lifecycle_recipes.doctor.row_level.tokens import find_in_text
    from lifecycle_recipes.models.from_config import Architecture, start_model

    read = []

    def from_pretrained(path, revision):
        read.append((path, revision))
        raise OSError

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    values = {"model_type": "llama", "tokenizer": "me/words", "tokenizer_revision": SECOND}
    with pytest.raises(Refusal):
        find_in_text(SimpleNamespace(values={"architecture": values}), [])
    with pytest.raises(OSError):
        start_model(Architecture(**values), None, None)
    assert read == [("me/words", SECOND)] * 2


def test_a_pin_of_nothing_says_where_the_data_of_a_task_is_pinned(recipe_here):
    from lifecycle_recipes.doctor import check as doctor

    write(RECIPE + "evaluate: {tasks: [gsm8k]}\npinned: {openai/gsm8k: main}\n")
    (found,) = [f for f in doctor.check("sft.yaml", [], 1).findings if f.code == "unused-pin"]
    assert "dataset_kwargs: {revision: ...}" in found.fix


def test_a_pinned_revision_that_the_cache_lacks(recipe_here, hub, tiny_model_dir):
    for name in ("me/parent", "me/judge"):
        hub(name, tiny_model_dir, tiny_model_dir)
    Path("p.jsonl").write_text('{"prompt": "Which?"}\n')
    assert codes(write(RECIPE + EVALUATE + PINS)) == []
    assert codes(write(RECIPE + EVALUATE + PINS.replace(SECOND, "3c" * 20))) == [
        ("missing-revision", "warning")
    ]


def test_a_model_is_not_made_of_what_it_is_compared_with(recipe_here, hub, tiny_model_dir, tmp_path):
    """Neither its licence nor its code comes along."""
    hub("me/parent", tiny_model_dir, tiny_model_dir)
    hub("me/judge", tiny_model_dir, tiny_model_dir)
    for card in (tmp_path / "hub").glob("*/snapshots"):
        (card / FIRST / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    Path("p.jsonl").write_text('{"prompt": "Which?"}\n')
    write(RECIPE + EVALUATE)
    assert codes("sft.yaml", "--train.trust_remote_code", "true") == []
    write(RECIPE.replace("parent", "me/parent"))
    found = dict(codes("sft.yaml", "--train.trust_remote_code", "true"))
    assert {"remote-code", "license-non-commercial"} <= set(found)


def test_a_revision_of_nothing_is_refused():
    for key in ("against", "reward_model"):
        with pytest.raises(Refusal, match=f"no-effect.*{key}_revision"):
            check_config(EvaluateConfig(tasks=["x"], **{f"{key}_revision": "v1"}))


def test_the_pinned_revision_is_what_is_measured_against(
    hub, own_model_dir, second_model_dir, desk_config, measured
):
    identity = hub("me/parent", second_model_dir, own_model_dir)
    with_main, notes, _ = measured(own_model_dir, desk_config(against=identity))
    assert with_main["kl"] > 1e-3 and notes["evaluation"]["against_revision"] == FIRST
    pinned, notes, _ = measured(own_model_dir, desk_config(against=identity, against_revision=SECOND))
    assert pinned["kl"] == pytest.approx(0, abs=1e-7)
    assert (notes["evaluation"]["against"], notes["evaluation"]["against_revision"]) == (identity, SECOND)


def test_the_pinned_reward_model_scores(hub, own_model_dir, tiny_reward_dir, desk_config, measured, tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    silent = Path(shutil.copytree(tiny_reward_dir, tmp_path / "silent"))
    weights = load_file(silent / "model.safetensors")
    save_file(
        weights | {"score.weight": torch.zeros_like(weights["score.weight"])}, silent / "model.safetensors"
    )
    identity = hub("me/judge", tiny_reward_dir, silent)
    with_main, notes, _ = measured(own_model_dir, desk_config(reward_model=identity))
    assert with_main["reward"] != 0 and notes["evaluation"]["reward_model_revision"] == FIRST
    config = desk_config(reward_model=identity, reward_model_revision=SECOND)
    pinned, notes, _ = measured(own_model_dir, config)
    assert pinned["reward"] == 0 and notes["evaluation"]["reward_model_revision"] == SECOND


def test_a_directory_has_no_revision(own_model_dir, desk_config, measured):
    _, notes, _ = measured(own_model_dir, desk_config(against=str(own_model_dir)))
    assert "against_revision" not in notes["evaluation"]


@pytest.mark.parametrize("revision", ["main", SECOND])
def test_an_adapter_remembers_the_revision_of_its_base(
    hub, tiny_model_dir, second_model_dir, tmp_path, revision
):
    """Loaded, merged and trained further from, it stands on the weights that it was trained on."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import ModelConfig

    from lifecycle_recipes.models.adapters import merge_adapter, peft_config
    from lifecycle_recipes.models.saved import load_saved

    identity = hub("me/base", tiny_model_dir, second_model_dir)
    config = ModelConfig(model_name_or_path=identity, model_revision=revision, use_peft=True, lora_r=2)
    base = AutoModelForCausalLM.from_pretrained(identity, revision=revision)
    model = get_peft_model(base, peft_config(config)).eval()
    model.save_pretrained(tmp_path / "run")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path / "run")
    kept = json.loads((tmp_path / "run/adapter_config.json").read_text())["revision"]
    assert kept == (None if revision == "main" else revision)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        trained = model(input_ids=ids).logits
        for loaded in (
            load_saved(str(tmp_path / "run"), config).model,
            merge_adapter(str(tmp_path / "run"), AutoModelForCausalLM).eval(),
        ):
            assert torch.allclose(loaded(input_ids=ids).logits, trained, atol=1e-5)
