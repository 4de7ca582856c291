"""What a model is made of: walking, naming, copying, replacing and filling any object."""
