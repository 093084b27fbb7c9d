"""Saved models are loaded for measuring as they were trained: adapter, 4-bit base, whole after ZeRO-3."""


def test_an_adapter_is_loaded_with_its_base_and_its_own_stops(tiny_model_dir, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    from lifecycle_recipes.models.saved import load_saved, weights_id

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model_dir), LoraConfig(r=2, target_modules="all-linear")
    )
    torch.manual_seed(3)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    GenerationConfig(eos_token_id=[1, 3]).save_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    saved = load_saved(str(tmp_path))
    with torch.no_grad():
        logits = saved.model(input_ids=ids).logits
        assert torch.allclose(logits, model.eval()(input_ids=ids).logits, atol=1e-5)
        assert not torch.allclose(
            logits, load_saved(str(tiny_model_dir)).model(input_ids=ids).logits, atol=1e-3
        )
    assert saved.model.generation_config.eos_token_id == [1, 3]
    assert len(weights_id(str(tmp_path))) == 2


def test_a_qlora_adapter_is_measured_on_its_4_bit_base(tiny_model_dir, tmp_path):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import ModelConfig

    from lifecycle_recipes.models.saved import load_saved

    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    get_peft_model(base, LoraConfig(r=2, target_modules="all-linear")).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(tmp_path)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        quantised = load_saved(str(tmp_path), ModelConfig(load_in_4bit=True, use_peft=True))
        assert quantised.model.is_quantized
        difference = (
            quantised.model(input_ids=ids).logits - load_saved(str(tmp_path)).model(input_ids=ids).logits
        )
    # Rounded to 4 bits, and still the same model. Width 32 is no multiple of bitsandbytes' block of 64.
    assert 1e-5 < difference.abs().max() < 0.5


def test_weights_are_loaded_whole_after_a_zero3_training(tiny_model_dir):
    from transformers.integrations import HfDeepSpeedConfig, is_deepspeed_zero3_enabled

    from lifecycle_recipes.models.saved import load_saved

    config = HfDeepSpeedConfig({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 1})
    assert is_deepspeed_zero3_enabled()
    saved = load_saved(str(tiny_model_dir))
    assert all(weight.numel() for weight in saved.model.parameters()) and is_deepspeed_zero3_enabled()
    del config
