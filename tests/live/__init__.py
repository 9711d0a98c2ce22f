"""Live streams: the bus, the hub, what goes over the wire, and the equation that all of it is for."""
