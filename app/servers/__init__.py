"""Where the servers come from: programs that are looked for, started as children, watched, and borrowed from."""
