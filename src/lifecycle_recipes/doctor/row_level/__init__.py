"""Level 2: checks of the rows, the tokenizer, the chat template and the token lengths. No weights."""
