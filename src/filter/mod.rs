//! Filters: what can be done to a volume, and how one is applied.
