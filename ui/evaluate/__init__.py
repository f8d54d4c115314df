"""The Evaluate tab: methods compared on many prompts by scorers, as runs of the queue."""
