"""Speed and memory on one GPU: random models of the published shapes, trained and sampled."""
