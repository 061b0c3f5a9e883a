"""The command line: flags in, one library call, text out. No numbers are made here; imports any room, nothing imports it."""
