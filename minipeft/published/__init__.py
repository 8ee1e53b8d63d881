"""Published models as ours: each file takes the weights of one kind from the library that publishes it."""
