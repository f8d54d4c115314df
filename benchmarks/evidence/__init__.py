"""The evidence on Shapes: every method trained, tuned, sampled and judged; `make evidence`."""
