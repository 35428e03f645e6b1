"""Virtual time: the real broker and policies over simulated actors, traces and faults.

No clock and no sockets here; chance comes from the seed of a scenario alone.

arrivals   when requests come: files, Poisson, bursts, days
scenario   everything that a run is given, frozen
tables     what variants cost and are worth: profiles, and tables of others
memory     a device's bytes: who has them
residents  what is loaded on a device, and what is on its way
work       what a device computes: the engine's own batching over a table's seconds
device     a simulated actor: messages in, reports out
mishaps    the seeded faults of a run
world      the heap of events, and the broker among them
ledger     what came of each request, and the hash of all that happened
figures    what is told of a run
drawing    its picture
"""
