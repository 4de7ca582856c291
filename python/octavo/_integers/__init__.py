"""Products of integer arrays, exact or wrapped as NumPy wraps them."""
