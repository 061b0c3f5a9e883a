"""Rules that predict a block's error signal from its output instead of waiting for it."""
