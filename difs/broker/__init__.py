"""The broker: the only place where decisions are made."""
