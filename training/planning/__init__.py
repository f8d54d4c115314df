"""What a training would cost, told before it starts."""
