"""The conformance harness: the same config and traffic on real Envoy and on Outrider, observations compared."""
