"""Reading home timelines: candidates from what is kept or asked for, hydrated and judged until a page is full."""
