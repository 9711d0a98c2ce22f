"""Delivering: what is pending, who delivers since when, and the steps that a fan-out is made of."""
