"""Search and sampling over token ids."""
