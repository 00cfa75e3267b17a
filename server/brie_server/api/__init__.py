"""The HTTP routes, a module per resource: validated bodies in, wire objects out. No route builds an error by hand."""
