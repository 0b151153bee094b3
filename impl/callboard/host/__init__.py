"""What applications embed: hosts, actors, clients."""
