"""What a process has, and when it ends."""
