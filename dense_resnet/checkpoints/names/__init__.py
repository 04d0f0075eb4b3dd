"""Names of weights: each file here maps one framework's names to canonical ones."""
