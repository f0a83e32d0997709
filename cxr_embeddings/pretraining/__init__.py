"""Pretraining of an encoder: the films, the run's folder, its log and its picture."""
