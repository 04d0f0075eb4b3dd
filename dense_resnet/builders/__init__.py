"""How a plan becomes ops."""
