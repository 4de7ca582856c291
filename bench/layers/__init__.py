"""octavo's layers by themselves, beside NumPy."""
