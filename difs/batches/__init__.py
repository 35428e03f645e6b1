"""Offline batches: files of prompts, painted while nobody else wants the devices, whatever is killed.

Who writes: `difs batch` writes what is *wanted* (a batch, its cancelling, its resumption) and one worker
process what has *happened* (painted, failed), both into one SQLite database, each in one short
transaction; SQLite lets one in at a time. The worker is a child of `difs serve`, not of the command
that submits: so a closed terminal ends nothing, a worker that dies is started again, nothing is left
behind when the service stops, and a service that is started again goes on by itself. Two workers never
meet: each holds the lock of its service's run directory and paints only what was submitted there.

What makes "once": the names of a line's files and its seed are fixed when it is submitted; a file is
written aside, synced and renamed, and only then recorded. Killed between the two, the next worker
finds the files and records them. What was under way is nowhere recorded, so nothing of it can be wrong.

The pure half is `lines` (one line of a file), `decisions` and `keeping`; `store` and `folder` are the
doors to the database and to the pictures; `runner` performs.
"""
