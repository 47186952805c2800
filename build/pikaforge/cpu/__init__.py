"""Facts about CPUs: microarchitectures, their features, and what can emulate them. Pure."""
