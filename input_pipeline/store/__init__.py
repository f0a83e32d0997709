"""Stores of prepared films: written by Beam, read in order or at random."""
