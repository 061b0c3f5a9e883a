"""What the scripts share to draw, and the figures of those whose drawing is long."""
