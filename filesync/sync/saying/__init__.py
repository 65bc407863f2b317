"""What people are told: changes, figures, progress."""
