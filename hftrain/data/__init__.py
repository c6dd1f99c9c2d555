"""Rows, their order, and the batches made of them."""
