"""What is read of trees, how they differ, and what is made of them, by their manifests alone."""
