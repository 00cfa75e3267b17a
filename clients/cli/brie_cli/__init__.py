"""The `brie` command: a client of the API, and the verbs that start the services. It knows no service from inside."""
