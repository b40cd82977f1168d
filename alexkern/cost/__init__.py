"""What GPUs are made of, and what that bounds."""
