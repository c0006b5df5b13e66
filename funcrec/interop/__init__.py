"""Doors to other systems: their configs and weights, and modules of torch. Each imports its packages when used."""
