"""Pulling: whose statuses are not delivered but asked for, how that is known, and how they are asked for."""
