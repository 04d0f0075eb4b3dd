"""What weights are packed in: each file here reads one container into arrays under their own names."""
