"""Using a saved model: chat in the terminal, a server, and how fast both are."""
