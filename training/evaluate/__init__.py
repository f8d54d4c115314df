"""Evaluate: prompt sets × methods × seeds × scorers, over all devices, into one table."""
