"""What is true at this moment: who is here, and what has just happened."""
