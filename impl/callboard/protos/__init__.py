"""Wire contracts, generated from spec/protos by `make protos`."""
