"""Rules with local losses: each block or window of blocks has an auxiliary classifier of its own."""
