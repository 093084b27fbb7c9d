"""`lifecycle inspect`: the input of the loss, token by token, and the totals of the training set."""
