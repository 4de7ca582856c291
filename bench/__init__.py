"""Measurements: README.md says what each answers. All run from the top of the repository, as modules."""
