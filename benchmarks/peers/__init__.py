"""`make bench-peers`: torchpool beside other inference engines, on models of many kinds."""
