"""Files that become pixels: find, validate and decode PNG and JPEG images."""
