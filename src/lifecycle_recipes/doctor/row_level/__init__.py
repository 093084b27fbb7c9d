"""Level 2: rows, and what tokenizer, template and lengths make of them. No weights."""
