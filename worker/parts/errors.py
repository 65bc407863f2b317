"""What keeps an image from being read in parts."""


class NotInParts(Exception):
    """Only whoever applies all layers can tell what is there. The image is then taken whole.

    Never leaves the worker.
    """
