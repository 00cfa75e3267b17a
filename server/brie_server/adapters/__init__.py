"""Which adapters exist and which are on the device. It knows names, versions and the engine; no HTTP and no text."""
