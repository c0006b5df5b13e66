"""Types, the model contract, randomness, trees, initializers, errors. Imports nothing else of funcrec."""
