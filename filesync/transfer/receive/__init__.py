"""The receiving half: what a pull fetches, from whom, and where it lands."""
