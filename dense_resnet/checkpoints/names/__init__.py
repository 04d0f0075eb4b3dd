"""What weights are called: each file here maps one framework's names to canonical ones."""
