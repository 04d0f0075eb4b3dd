"""Labels, samples, datasets and their checks."""
