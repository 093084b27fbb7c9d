"""The export stage: what it writes is the trained model, can be moved, and is refused where it is another one."""

import json
import shutil

import pytest
import yaml
from families import LLAMA3_ROPE
from repository import ROOT
from saved_adapters import save_adapter

from lifecycle_recipes.cli import main as lifecycle
from lifecycle_recipes.models.quantised_base import quantisation_of
from lifecycle_recipes.models.saved import load_saved
from lifecycle_recipes.publish import export as export_module
from lifecycle_recipes.publish.config import ExportConfig
from lifecycle_recipes.publish.gguf_reading import load_gguf
from lifecycle_recipes.publish.gguf_writing import find_in_gguf, write_gguf
from lifecycle_recipes.publish.parity import find_in_parity
from lifecycle_recipes.publish.recovery import recovery
from lifecycle_recipes.record.model_files import find_changed
from lifecycle_recipes.stages.export import main as export_stage

SAME = {"differs": [], "agreement": 1.0, "max_difference": 0.0}


def test_all_forms_of_a_model_and_the_directory_can_be_moved(export, chat_model, tmp_path):
    loose = {"int8": 0.5, "nf4": 0.2, "gguf-q8_0": 0.5, "gguf-q4_0": 0.2}
    forms = ["int8", "nf4", "gguf-f16", "gguf-q8_0", "gguf-q4_0"]
    status, out, record = export(chat_model, forms=forms, agreement=loose)
    assert status == 0 and record["status"] == "done"
    parity, sizes = record["export"]["parity"], record["export"]["bytes"]
    assert parity["merged"]["max_difference"] == 0 and parity["merged"]["same_text"] == 1
    assert parity["gguf-f16"]["agreement"] == 1 and parity["gguf-f16"]["max_difference"] < 0.01
    assert not any(found["differs"] for found in parity.values())
    assert record["metrics"]["gguf-q8_0.agreement"] == parity["gguf-q8_0"]["agreement"]
    assert sizes["gguf-q4_0"] < sizes["gguf-q8_0"] < sizes["gguf-f16"] < sizes["merged"]
    with pytest.raises(SystemExit):
        lifecycle(["chat", str(out / "gguf-q4_0"), "--prompt", "Hello"])
    # Elsewhere, without the model that it was made from.
    shutil.rmtree(chat_model)
    moved = shutil.move(out, tmp_path / "elsewhere")
    places = {None: moved} | {form: moved / form for form in forms}
    assert not any(find_changed(place, record, form) for form, place in places.items())
    saved = load_saved(str(moved))
    assert saved.tokenizer.chat_template and saved.model.generation_config.eos_token_id == [1, 3]
    stops = saved.tokenizer.convert_ids_to_tokens([1, 3])
    modelfile = (moved / "gguf-q4_0/Modelfile").read_text()
    assert modelfile.startswith("FROM ./model.gguf\n") and all(
        f'stop "{stop}"' in modelfile for stop in stops
    )
    for form, name in ((None, "generation_config.json"), ("int8", "config.json"), ("gguf-q4_0", "Modelfile")):
        (places[form] / name).write_text("{}")
        assert find_changed(places[form], record, form) == [name]


def test_a_merged_adapter_answers_as_the_adapter(export, chat_model, tmp_path, capsys):
    adapter = save_adapter(chat_model, tmp_path / "adapter")
    status, out, record = export(adapter)
    parity = record["export"]["parity"]["merged"]
    assert status == 0 and parity["max_difference"] < 1e-4 and parity["same_text"] == 1
    assert record["export"]["adapters_merged"] and not list(out.glob("adapter*"))
    with pytest.raises(SystemExit):
        lifecycle(["lineage", str(out)])
    assert f"model {adapter}" in capsys.readouterr().out


@pytest.mark.parametrize("kilobytes", [600, 1200], ids=["merged", "form"])
def test_a_full_disk_is_named_and_nothing_counts_as_exported(
    export, chat_model, small_disk, capsys, kilobytes
):
    out = small_disk(kilobytes) / "run"
    status, _, _ = export(chat_model, forms=["gguf-f16", "gguf-q8_0", "int8"], output_dir=str(out))
    error = capsys.readouterr().err
    assert status == 1 and "error [disk-full]" in error and "Traceback" not in error
    assert json.loads((out / "run.json").read_text())["status"].startswith("failed: [disk-full]")


def test_another_base_is_found_out(export, chat_model, tmp_path, monkeypatch, capsys):
    """The adapter of one base, merged into another."""
    from transformers import AutoModelForCausalLM

    adapter = save_adapter(chat_model, tmp_path / "adapter")
    merge = export_module.merged

    def into_another(source, dtype):
        model = merge(source, dtype)
        other = AutoModelForCausalLM.from_pretrained(chat_model)
        model.model.layers[0].mlp.load_state_dict(other.model.layers[0].mlp.state_dict())
        return model

    monkeypatch.setattr(export_module, "merged", into_another)
    status, _, record = export(adapter)
    assert status == 1 and record["status"].startswith("failed: [export-differs]")
    assert "the logits of the merged model differ" in capsys.readouterr().err


def test_a_merge_in_16_bits_is_found_out(export, chat_model, tmp_path, monkeypatch, capsys):
    """Merged in bfloat16 and saved as float32: the rounding is small, and it is not the trained model."""
    import torch

    merge = export_module.merged
    monkeypatch.setattr(
        export_module, "merged", lambda source, dtype: merge(source, "bfloat16").to(torch.float32)
    )
    status, _, record = export(save_adapter(chat_model, tmp_path / "adapter"))
    assert status == 1 and record["export"]["dtype"] == "float32"
    assert "[export-differs]" in capsys.readouterr().err


def test_an_adapter_whose_base_changed_is_not_merged(export, chat_model, tmp_path, capsys):
    """Other weights at the path of the base than those that the adapter was trained on."""
    adapter = save_adapter(chat_model, tmp_path / "adapter")
    record = {"schema": 1, "status": "done", "stage": "sft", "gate": [], "metrics": {}, "identity": "x"}
    trained_on = {"path": str(chat_model), "weights_sha256": "0" * 64}
    (adapter / "run.json").write_text(json.dumps(record | {"parents": {"model": trained_on}}))
    assert export(adapter)[0] == 2 and "[base-differs]" in capsys.readouterr().err
    sibling = save_adapter(chat_model, tmp_path / "other", seed=8)
    combined = {"model_name_or_path": str(sibling), "adapters": [{"path": str(adapter)}]}
    assert export(combined)[0] == 2 and "[base-differs]" in capsys.readouterr().err


def test_another_template_is_found_out(export, chat_model, monkeypatch, capsys):
    load = export_module.load_tokenizer

    def drifted(*arguments):
        tokenizer = load(*arguments)
        tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "bot")
        return tokenizer

    monkeypatch.setattr(export_module, "load_tokenizer", drifted)
    status, *_ = export(chat_model)
    assert status == 1 and "merged: the rendered chat templates differ" in capsys.readouterr().err


def test_what_cannot_be_loaded_is_named(export, chat_model, monkeypatch, capsys):
    def damaged(config, form, place, rows):
        shutil.copytree(config.output_dir, place, ignore=shutil.ignore_patterns("*.json"))

    monkeypatch.setattr(export_module, "write_form", damaged)
    status, out, record = export(chat_model, forms=["int8"])
    errors = capsys.readouterr().err
    assert status == 1 and f"[export-unloadable] {out}/int8: int8 cannot be loaded" in errors
    assert record["export"]["parity"]["merged"]["same_text"] == 1  # what could be compared is recorded


@pytest.mark.slow
def test_a_qlora_adapter_is_merged_into_the_weights_that_it_saw(export, chat_model, tmp_path):
    adapter = save_adapter(chat_model, tmp_path / "adapter", load_in_4bit=True, dtype="float32")
    status, _, record = export(adapter)
    found = record["export"]
    assert status == 0 and found["base"].startswith("dequantised")
    assert found["parity"]["merged"]["agreement"] == 1 and found["parity"]["merged"]["max_difference"] < 0.05
    plain = save_adapter(chat_model, tmp_path / "plain")
    assert export(plain, "--replace")[2]["export"]["base"] == "as saved"


@pytest.mark.slow
def test_a_reward_model_gives_the_same_scores(export, tiny_reward_dir):
    status, out, record = export(tiny_reward_dir)
    parity = record["export"]["parity"]["merged"]
    assert status == 0 and parity["max_difference"] < 1e-5 and "agreement" not in parity
    assert parity["architecture"] == "LlamaForSequenceClassification"


def test_what_is_not_the_trained_model():
    config = ExportConfig(output_dir="x", forms=["int8"], agreement={"int8": 0.9})
    assert find_in_parity({"merged": SAME, "int8": SAME | {"agreement": 0.91}}, config, True) == []
    few = find_in_parity({"merged": SAME, "int8": SAME | {"agreement": 0.89}}, config, True)
    assert [f.where for f in few] == ["x/int8"] and "89.0%" in few[0].message
    away = SAME | {"max_difference": 0.1}
    assert find_in_parity({"merged": away}, config, exact=False) == []
    assert len(find_in_parity({"merged": away}, config, exact=True)) == 1
    assert len(find_in_parity({"merged": SAME | {"max_difference": float("nan")}}, config, exact=True)) == 1
    stops = find_in_parity({"merged": SAME | {"differs": ["stop tokens"]}}, config, False)
    assert "the stop tokens differ" in stops[0].message


def test_recovery_is_the_smallest_share_that_is_kept():
    whole = {"task.acc": 0.8, "wiki.bits_per_byte": 2.0, "never.acc": 0.0}
    assert recovery({"task.acc": 0.76, "wiki.bits_per_byte": 2.0, "never.acc": 0.1}, whole) == pytest.approx(
        0.95
    )
    assert recovery({"task.acc": 0.9, "wiki.bits_per_byte": 2.5, "never.acc": 0.0}, whole) == 0.8
    assert recovery({"task.acc": 0.0, "wiki.bits_per_byte": 2.0, "never.acc": 0.0}, whole) == 0
    assert recovery({"task.acc": float("nan"), "wiki.bits_per_byte": 2.0, "never.acc": 0.0}, whole) == 0


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
def test_gguf_of_each_family_is_the_same_model(tmp_path, chat_model, family):
    """RoPE scaling of Llama 3.1, heads wider than hidden / heads, fewer key heads, tied embeddings, biases of Qwen2."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chat_model)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "max_position_embeddings": 128, "tie_word_embeddings": True}
    sizes |= {"head_dim": 128} if family == "qwen3" else {}
    sizes |= {"sliding_window": None} if family == "mistral" else {}
    # So few positions before scaling that it counts for this text.
    sizes |= (
        {"rope_parameters": LLAMA3_ROPE | {"original_max_position_embeddings": 8}}
        if family == "llama"
        else {}
    )
    torch.manual_seed(4)
    config = AutoConfig.for_model(family, vocab_size=len(tokenizer) + 4, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        # Attention that decides: else positions would hardly count.
        torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.5 if "self_attn" in name else 0.1)
    model.save_pretrained(tmp_path / family)
    tokenizer.save_pretrained(tmp_path / family)
    form = tmp_path / "form"
    form.mkdir()
    write_gguf(str(tmp_path / family), form, "F16")
    read = load_gguf(form)
    ids = torch.tensor([tokenizer("Which colour is service 3? " * 3)["input_ids"]])
    with torch.no_grad():
        ours, theirs = model(ids).logits, read.model(ids.to(read.model.device)).logits.cpu()
    assert (ours - theirs).abs().max() < 0.1 * ours.std()  # 16 bits
    assert read.tokenizer("Which colour is 12?")["input_ids"] == tokenizer("Which colour is 12?")["input_ids"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "gemma3"}, "the family gemma3"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "RoPE scaling (yarn)"),
        ({"model_type": "qwen2", "rope_parameters": {"rope_type": "llama3"}}, "RoPE scaling (llama3)"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "RoPE scaling (linear)"),
        ({"mlp_bias": True}, "biases"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding-window"),
        ({"model_type": "qwen3", "head_dim": 64}, "heads are not 128"),
    ],
)
def test_what_gguf_would_change_is_refused(chat_model, change, reason):
    assert find_in_gguf(str(chat_model)) == []
    config = json.loads((chat_model / "config.json").read_text())
    (chat_model / "config.json").write_text(json.dumps(config | change))
    assert reason in find_in_gguf(str(chat_model))[0]


def test_16_bits_are_still_the_trained_model(export, chat_model, tmp_path):
    status, out, record = export(chat_model, dtype="bfloat16", agreement={"merged": 0.8})
    parity = record["export"]["parity"]["merged"]
    assert status == 0 and parity["dtype"] == "bfloat16" and parity["max_difference"] > 0
    assert ExportConfig("x").least_agreement("merged", exact=False) < ExportConfig("x").least_agreement(
        "merged", True
    )


def test_scores_that_differ_are_found_out_in_16_bits_too():
    config = ExportConfig(output_dir="x")
    scores = {"differs": [], "scale": 2.0}
    assert find_in_parity({"merged": scores | {"max_difference": 0.05}}, config, exact=False) == []
    assert find_in_parity({"merged": scores | {"max_difference": 0.2}}, config, exact=False)
    assert find_in_parity({"merged": scores | {"max_difference": float("nan")}}, config, exact=False)
    assert find_in_parity({"merged": scores | {"max_difference": 0.05}}, config, exact=True)


def test_the_checkpoint_of_a_qlora_run_has_its_quantisation(chat_model, tmp_path):
    run = save_adapter(chat_model, tmp_path / "run", load_in_4bit=True)
    checkpoint = save_adapter(chat_model, run / "checkpoint-5")
    assert quantisation_of(str(checkpoint)).load_in_4bit and quantisation_of(str(run)).load_in_4bit


def test_a_check_names_what_cannot_be_exported(chat_model, tmp_path, capsys):
    def errors(model=chat_model, **settings) -> str:
        export = {"output_dir": str(tmp_path / "out")} | settings
        recipe = {"stage": "export", "model": {"model_name_or_path": str(model)}, "export": export}
        (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
        with pytest.raises(SystemExit):
            lifecycle(["check", str(tmp_path / "r.yaml")])
        found = capsys.readouterr()
        return found.out + found.err

    for name, stage in (("tokens", "tokenizer"), ("rows", "curate")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"schema": 1, "status": "done", "stage": stage}))
        assert f"this is a run of {stage}" in errors(model=tmp_path / name)
    gone = save_adapter(chat_model, tmp_path / "adapter")
    config = json.loads((gone / "adapter_config.json").read_text())
    (gone / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(tmp_path / "none")})
    )
    assert "[adapter-base-missing]" in errors(model=gone)
    assert "[missing-file]" in errors(prompts=str(tmp_path / "none.jsonl"))
    (tmp_path / "bad.jsonl").write_text('{"question": "x"}\n')
    assert "[bad-row]" in errors(prompts=str(tmp_path / "bad.jsonl"))
    assert "[no-effect]" in errors(agreement={"int8": 0.5})
    assert "[bad-value]" in errors(agreement={"int9": 0.5})
    assert "fix: write 0.95 for 95 %" in errors(agreement={"merged": 95})
    config = json.loads((chat_model / "config.json").read_text())
    (chat_model / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    assert "[not-exportable]" in errors()


def in_a_cache(model, cache, monkeypatch) -> str:
    """The id of a model in a Hub cache of one's own."""
    from huggingface_hub import constants

    folder = cache / "models--me--tiny"
    shutil.copytree(model, folder / "snapshots" / ("a" * 40))
    (folder / "refs").mkdir()
    (folder / "refs/main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return "me/tiny"


@pytest.mark.parametrize(
    ("change", "forms", "section", "code"),
    [
        ({"model_type": "gemma2"}, ["gguf-f16"], {}, "gguf-unsupported"),
        ({"num_local_experts": 8}, [], {"prune": {"levels": [0.5]}}, "not-prunable"),
        ({"architectures": ["LlamaForSequenceClassification"]}, ["int8"], {}, "reward-form"),
    ],
)
def test_a_model_of_the_hub_is_refused_before_its_weights_are_read(
    export, chat_model, tmp_path, monkeypatch, capsys, change, forms, section, code
):
    config = json.loads((chat_model / "config.json").read_text())
    (chat_model / "config.json").write_text(json.dumps(config | change))
    name = in_a_cache(chat_model, tmp_path / "cache", monkeypatch)
    monkeypatch.setattr(export_module, "load_trained", lambda source: pytest.fail("the weights were read"))
    arguments = [word for key, value in section.items() for word in (f"--{key}", json.dumps(value))]
    status, out, _ = export(name, *arguments, forms=forms)
    assert status == 2 and f"error [{code}] me/tiny: " in capsys.readouterr().err
    assert not list(out.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["adapter_config.json", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("place", ["first", "sibling"])
def test_a_damaged_file_is_named(chat_model, tmp_path, capsys, name, place):
    if name == "adapter_config.json":
        models = {key: save_adapter(chat_model, tmp_path / key) for key in ("first", "sibling")}
    else:
        models = {key: tmp_path / key for key in ("first", "sibling")}
        for path in models.values():
            shutil.copytree(chat_model, path)
    file = models[place] / name
    file.write_text(file.read_text()[:40])
    key = "adapters" if name == "adapter_config.json" else "average"
    model = {"model_name_or_path": str(models["first"]), key: [{"path": str(models["sibling"])}]}
    recipe = {"stage": "export", "model": model, "export": {"output_dir": str(tmp_path / "out")}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(SystemExit) as end:
        lifecycle(["check", str(tmp_path / "r.yaml")])
    shown = capsys.readouterr()
    assert end.value.code == 2 and f"error [parent-unreadable] {file}: " in shown.out + shown.err


def test_an_adapter_that_is_a_pickle_is_named(export, chat_model, tmp_path, capsys):
    import torch
    from safetensors.torch import load_file

    adapter = save_adapter(chat_model, tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    torch.save(load_file(weights), adapter / "adapter_model.bin")
    weights.unlink()
    assert export(adapter)[0] == 2
    shown = capsys.readouterr().err
    assert f"[saved-pickled] {adapter}/adapter_model.bin" in shown and "save_pretrained" in shown
    (adapter / "adapter_model.bin").unlink()
    save_adapter(chat_model, adapter)
    weights.write_bytes(weights.read_bytes()[:200])
    assert export(adapter)[0] == 2 and f"[parent-unreadable] {weights}" in capsys.readouterr().err


def test_prompts_that_an_earlier_recipe_makes_are_not_missing(chat_model, tmp_path, capsys, export):
    first = {"stage": "curate", "curate": {"output_dir": str(tmp_path / "rows"), "steps": []}}
    first["data"] = {"sources": [{"path": str(tmp_path / "raw.jsonl")}]}
    (tmp_path / "raw.jsonl").write_text('{"text": "one"}\n')
    recipe = {"stage": "export", "model": {"model_name_or_path": str(chat_model)}}
    recipe["export"] = {"output_dir": str(tmp_path / "out"), "prompts": str(tmp_path / "rows/train.jsonl")}
    for name, values in (("1", first), ("2", recipe)):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    for given in (["1", "2"], ["2"]):
        with pytest.raises(SystemExit):
            lifecycle(["check", *(str(tmp_path / f"{name}.yaml") for name in given)])
        shown = capsys.readouterr()
        assert "missing-file" not in shown.out + shown.err
    assert f"run this first: lifecycle run {tmp_path}/1.yaml" in shown.out + shown.err
    # And if nobody made them after all, the run itself names them.
    with pytest.raises(SystemExit) as end:
        export_stage([str(tmp_path / "2.yaml")])
    assert end.value.code == 2 and "error [parent-missing]" in capsys.readouterr().err


def test_a_form_that_scores_too_low_fails_the_export(export, chat_model, monkeypatch, capsys):
    """The scores are planted: a tiny model has learnt nothing that it could lose."""
    monkeypatch.setattr(
        export_module, "measure", lambda path, config, run: run.metrics.update({"task.acc": 0.8})
    )
    monkeypatch.setattr(
        "lifecycle_recipes.evals.harness.run_tasks", lambda replies, config: {"task.acc": 0.4}
    )
    evaluate = {"tasks": ["desk_facts"], "include_path": str(ROOT / "data/desk/tasks")}
    status, _, record = export(
        chat_model, "--evaluate", json.dumps(evaluate), forms=["int8"], agreement={"int8": 0.1}
    )
    assert status == 1 and record["metrics"]["int8.recovery"] == 0.5
    assert "[recovery-low]" in capsys.readouterr().err
