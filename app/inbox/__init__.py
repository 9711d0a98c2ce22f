"""Notifications and conversations: what concerns one person alone, and waits for them."""
