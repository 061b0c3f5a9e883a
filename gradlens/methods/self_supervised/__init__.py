"""Learning rules without labels: contrastive, predictive and inpainting objectives, end to end and local."""
