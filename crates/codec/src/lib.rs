//! HTTP/1.1 and HTTP/2 on the wire, in both roles.
