"""Layers on their way from worker to worker: made once, sent as what they are made of, proved and applied."""
