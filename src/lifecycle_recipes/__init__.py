"""Recipes for the whole training lifecycle of a language model. Importing does nothing."""
