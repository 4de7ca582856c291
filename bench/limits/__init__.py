"""What the machine can do at most, and how much of it the inner loops take."""
