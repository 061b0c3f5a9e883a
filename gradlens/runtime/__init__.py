"""Errors, keyed random generators, ranks, interrupts, csv tables, progress, and loading a user's file.

Imports no other room.
"""
