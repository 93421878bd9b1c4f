"""RocksDB, files and the database directory: bytes, never distances.

`layout` knows what lies where, `store` keeps a collection's truth, `sections` holds segment files.
"""
