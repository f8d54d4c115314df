"""What is on the device: models and pairs, loaded, lent and dropped."""
