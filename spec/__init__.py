"""The reference: executable models (spec.model), the catalogue of properties (spec.catalogue), wire contracts."""
