"""The servers: programs that are looked for, started as children, watched, and lent to other commands."""
