"""`lifecycle inspect`: what the trainer sees, token by token, and the sums of the run."""
