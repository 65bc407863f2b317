"""``filesync sync``, ``serve`` and ``manifest``: the engine as a tool to copy trees."""
