"""What concerns one person alone, and waits for them: notifications and conversations."""
