"""Tokenizers: text to ids, and ids to text as it is made."""
