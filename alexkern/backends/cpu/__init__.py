"""What serves CPU tensors by csrc/cpu."""
