"""Pages for people: one a run, one a campaign. Each is one file of HTML that needs nothing else, not even a network."""
