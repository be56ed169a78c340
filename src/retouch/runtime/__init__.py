"""Doing it: kernel calls for a plan, the state they read and write, packed weights, stores."""
