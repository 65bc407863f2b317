"""Decides what runs where and what must move; talks to users."""
