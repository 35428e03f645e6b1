"""The systems that benches compare DIFS with, DIFS itself among them, behind one interface."""
