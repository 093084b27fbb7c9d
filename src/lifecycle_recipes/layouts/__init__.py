"""Layouts: what accelerate and DeepSpeed files request, what is in effect, how a stage starts. No torch."""
