"""The ladder: one layer in seven steps. `alexkern learn` runs them; README.md says how to read them."""
