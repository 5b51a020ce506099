//! Consul: a thin client, and what the mesh does with it.
