//! DNS: A, AAAA and SRV records as instances.
