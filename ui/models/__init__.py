"""The Models tab: what is loaded where, how large, why something was unloaded, what would fit."""
