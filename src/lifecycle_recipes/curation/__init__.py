"""Curation: from raw sources to a mixture of rows, with every row accounted for."""
