"""``python -m filesync``: the command line without an installed script."""

from filesync.cli import main

if __name__ == "__main__":
    main()
