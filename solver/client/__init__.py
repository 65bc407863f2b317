"""The client: what a user brings goes in, what they asked for comes out."""
