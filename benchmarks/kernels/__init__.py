"""torchpool's own kernels beside those of the libraries."""
