"""A whole service in virtual time, on links that lose: everything that happens follows from a seed.

Real are the broker's heart with its planner (`BrokerState`), the actors (`Actor` over `SimulatedEngine`,
which paints into real segments), what the supervisor decides (`Supervision`) and the clients
(`ClientCore`). Made here are time, chance, the links, the ends of processes, and the programs that ask.

    world     the events in their order, and one life of everything
    links     what happens to messages on their way
    processes the broker, the actors and the supervisor, and how they end
    callers   the clients: what they ask, how they look at pictures, and when they die
    faults    what befalls whom, drawn before a run
    ledger    what was asked against what was answered, and what may be left at the end
"""
