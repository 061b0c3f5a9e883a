"""gradlens: train with backprop or a rule that replaces it, and measure how far the gradient it used is from the true one."""

__version__ = "0.1.0"
