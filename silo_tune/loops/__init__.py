"""SILO in other people's training loops: a torch scheduler, masks that hold, and callbacks; no study file."""
