"""Keys of machines: files of them, the command that makes them, the options about them."""
