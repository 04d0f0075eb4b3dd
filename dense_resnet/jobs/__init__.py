"""Long work that survives a kill: atomic files, journals, locks, ordered threads."""
