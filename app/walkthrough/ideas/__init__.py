"""The idea of each chapter in ten lines: the steps of the article as they are first
thought of. The test suite runs them; the phases add what they leave out.
"""
