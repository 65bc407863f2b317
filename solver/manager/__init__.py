"""The manager: knows every manifest and who holds it, decides, and moves no file data."""
