"""Frozen graphs on a CPU: batch norm folded into kernels, uint8 images in, arrays out."""
