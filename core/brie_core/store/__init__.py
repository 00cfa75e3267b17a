"""Brie's memory: database rows for jobs, files and names, folders for what they point at. It knows no HTTP."""
