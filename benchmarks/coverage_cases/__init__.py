"""The rows of the coverage table, and the parts of the sweep over them."""
