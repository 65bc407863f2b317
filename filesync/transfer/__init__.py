"""Moves the contents of offered trees between processes.

There is no list of names here: who only sends needs nothing of what receives, and a command's
start is counted in milliseconds. Import from the modules.
"""
