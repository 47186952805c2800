"""Facts about CPUs: microarchitectures, their features, and the emulator's models of them. Pure."""
