"""Reading just some paths of an image in a registry, without its layers."""
