"""Models in files: safetensors, what each kind of object is stored as, checkpoints."""
