"""The use cases: what people do to each other's timelines. The API and the pages both come through here."""
