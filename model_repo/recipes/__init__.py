"""How the embedded emoji family is made: drawings, autoencoders, denoisers, adapters, export.

Nothing in `difs` imports this; nothing here is needed to run the service.
"""
