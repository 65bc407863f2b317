"""The least that a tool of these parts can take: a tree moved without a protocol.

``python -m bench.floor serve ROOT ADDRESS``, then ``python -m bench.floor give SRC ADDRESS NAME``
makes ROOT/NAME hold what SRC holds. One process on either side, Python with the libraries that
filesync uses: ZeroMQ for the bytes, BLAKE3 for the proof, FastCDC for large files that changed; of small
ones goes what is neither at the start nor at the end of the old one. All that is not needed to get
there is left out: there are only files and directories, a peer is believed, nothing is resumed,
written atomically, cached or told to anybody. Files of the same size and time are taken for the same,
as by rsync. ``bench.sync`` runs it beside the others; a
limit that lies below what it takes cannot be met by a tool that is made of these.
"""
