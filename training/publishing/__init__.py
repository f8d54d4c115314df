"""A trained pair for others: layouts, model cards, upload."""
