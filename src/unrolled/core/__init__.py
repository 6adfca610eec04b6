"""Errors, the base of typed configs, atomic files: what every other part stands on."""
