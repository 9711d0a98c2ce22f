"""What happens after the poster has gone: deliveries, the change stream, and the sweeper that finds what got lost."""
