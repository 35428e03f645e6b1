"""Many nodes: one complete DIFS service per node of a Ray cluster, one door before them.

Here it is decided which node gets a request, and no more: the node decides the rest, as it does alone.
Membership, transport and the number of nodes are Ray's. Ray itself is imported only by `application`,
`calls`, `deploy` and `router`; what they are told to do is decided in pure modules beside them.
"""
