//! Clusters: discovery, hosts, load balancing, pools and circuit breakers.
