"""Reproducible comparisons with plots."""
