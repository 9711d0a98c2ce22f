"""The event loop of what serves pages, and of what measures them."""

import asyncio

import uvicorn


def event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where the platform has it. uvicorn's loggers stay as they are."""
    factory = uvicorn.Config("", log_config=None).get_loop_factory()
    return factory() if factory else asyncio.new_event_loop()
