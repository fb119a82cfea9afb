"""How a network learns: recipes, samples and batches, one optimisation step, validation scores."""
