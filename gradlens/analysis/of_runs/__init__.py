"""The analyses of finished runs, one a file; ``registry.py`` lists them. None of these modules imports torch before it computes."""
