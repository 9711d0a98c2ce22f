"""What only a browser can see."""
