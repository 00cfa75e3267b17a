"""What lies between the matrix products, compiled for this machine's CPU. It knows rows of numbers, and no model."""
