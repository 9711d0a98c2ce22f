"""Delivering: what is owed, who delivers since when, and the steps that a fan-out is made of."""
