"""The event loop of the processes that serve pages."""

import asyncio

import uvicorn


def event_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop, uvloop's where the platform has it. uvicorn's loggers stay as they are."""
    factory = uvicorn.Config("", log_config=None).get_loop_factory()
    return factory() if factory else asyncio.new_event_loop()
