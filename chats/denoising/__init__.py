"""How guidance reaches the denoiser: the methods, their hooks, and the families of models."""
