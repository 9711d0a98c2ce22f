"""What happens after the poster has gone: deliveries, who follows the change stream, and the sweeper that finds what was
lost.
"""
