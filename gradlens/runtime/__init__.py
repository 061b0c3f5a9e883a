"""The process we run in: errors, keyed random streams, ranks, interrupts, csv tables, progress, loading a user's file.

Imports no other room.
"""
