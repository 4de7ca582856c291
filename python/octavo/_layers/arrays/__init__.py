"""Objects that imitate a NumPy array: integers with their scale, values under observation, matrices read on demand."""
