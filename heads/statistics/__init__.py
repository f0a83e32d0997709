"""What a head can do, with intervals.

In all modules a `score` is monotone, ties count half, a `label` is 0 or 1, `patient` is the number
of each film's patient from 0, `draws` are of the whole test split, and `rows` the films measured,
numbered as there.
"""
