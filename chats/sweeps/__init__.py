"""Sweeps: the same prompts and seeds at many α and s, scored, in a folder that is gone on with."""
