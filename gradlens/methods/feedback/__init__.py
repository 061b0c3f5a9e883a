"""Learning rules that replace the transposed weights, or the whole backward path, by feedback matrices."""
