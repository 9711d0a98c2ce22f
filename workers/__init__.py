"""What happens after the poster has gone: deliveries, and the sweeper that finds what got lost."""
