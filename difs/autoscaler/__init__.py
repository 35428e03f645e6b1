"""The autoscaler: which variants are on which device, in which memory mode. Pure: view in, plan out."""
