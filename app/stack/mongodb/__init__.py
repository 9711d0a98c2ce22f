"""MongoDB, and its stand-in. No other package imports Motor or mongomock.

Motor gets critical fixes only until May 2027; moving to PyMongo's own async client is a change of this package.
"""
