"""The Alpha lab: many α and s at once, scored."""
