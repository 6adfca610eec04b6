"""Experiments over many trainings."""
