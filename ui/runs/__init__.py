"""The Runs tab: trainings as they go on, and what can be done with them."""
