"""Fine-tuning a pair of denoisers on preferences."""
