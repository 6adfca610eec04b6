"""Tasks: input field, output field, model builder, objective, scorer and baselines."""
