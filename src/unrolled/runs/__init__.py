"""Run folders: a recipe is resolved, trained, saved, loaded, and answers."""
