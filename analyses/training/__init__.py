"""What the scripts share to train, store and read their runs."""
