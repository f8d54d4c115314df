"""What a training reads: pictures, encoded pairs, caches, and what is drawn from them."""
