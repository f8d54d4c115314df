"""The Scoreboard tab."""
