"""Accelerate and DeepSpeed files: what they ask for, what runs, how a stage is launched. No torch."""
