"""The queue of trainings: submitted, watched, stopped and resumed through their run directories."""
