"""Small systems of the theory papers: dependence of views, layerwise clustering, synthetic gradients as one system."""
