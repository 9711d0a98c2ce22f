"""Live streams: who is here at this moment, and what has just happened."""
