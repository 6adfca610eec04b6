"""Studies over many trainings."""
