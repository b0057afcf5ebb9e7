"""What is decided automatically about images: one ordered list of steps, and one loop that decides."""
