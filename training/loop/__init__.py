"""The training loop and all that its state is made of."""
