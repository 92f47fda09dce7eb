"""Imports every module of rules: each enters its own into the registry."""
