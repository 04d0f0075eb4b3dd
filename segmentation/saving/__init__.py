"""Models on disk: model directories, conversions, exports."""
