"""Compare the speed of this library with others: each framework runs in its own process, in turn."""
