"""Watching: what a process measures, what is promised, and the rules that say when somebody has to look."""
