"""The record of a run and the runs it starts from: run.json, output directory, parents, gate. No torch."""
