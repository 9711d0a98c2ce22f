"""What is true at this moment: who is here."""
