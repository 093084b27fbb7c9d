"""What a run leaves behind and may start from: run.json, output directory, parents, gate. No torch."""
