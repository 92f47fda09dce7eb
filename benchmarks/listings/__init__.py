"""Loops as their authors write them: before, with one line changed, and at their best."""
