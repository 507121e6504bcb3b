"""From the files that users bring to the batches that a model is trained on.

`files` finds and reads them row by row, `problems` counts what is wrong with
them, `store` keeps their tokens in a mapped file, `prepare` is the way through.
"""
