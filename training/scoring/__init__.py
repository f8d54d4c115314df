"""A finished pair's score: a process of its own, its record in the run directory."""
