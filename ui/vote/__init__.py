"""The Vote tab."""
