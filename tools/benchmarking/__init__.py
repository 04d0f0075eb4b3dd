"""Compare the speed of this library with others: each framework runs in a process of its own, in turn."""
