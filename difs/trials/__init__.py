"""Trials: a load of requests offered to a running service, what came of it, and what that means.

A trial is one run of `difs bench`. What is asked and when is computed wholly beforehand (`workload`),
sent at its time whatever became of the others (`openloop`, `runner`), kept a line each (`records`,
`results`), and then told (`figures`), compared (`comparing`) and drawn (`drawing`). A client of the
service like any other: nothing here knows how it decides.
"""
