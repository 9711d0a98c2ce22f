"""The workers, which do what the poster does not wait for: deliveries, the change stream, and the sweeper."""
