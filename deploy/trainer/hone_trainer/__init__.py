"""hone's reference trainer: the native level of the container contract."""

CONTRACT = 1
