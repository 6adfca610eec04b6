"""Fields: how a column becomes numbers, and an answer becomes a word again."""
