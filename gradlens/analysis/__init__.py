"""What finished networks have learned; computes and stores json, prints and draws nothing.

Imports ``training`` and the rooms below it.
"""
