"""From a user's files to variants and adapters of the model repository; and variants of variants.

Only headers of weights are read to recognise them; no torch, no network, nothing of a pickle.
"""
