"""Measurements: throughput as ratios of one run, and the evidence on Shapes."""
