"""The formats of an export, one module each: sources in, verified files in a folder out. They know no job."""
