"""Generated from spec/protos by `make protos`; do not edit."""
