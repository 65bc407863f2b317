"""The commands of the build engine."""
