"""Figures that were measured, where no configuration says what is enough. docs/doctor.md says how they were taken."""

from __future__ import annotations

MIB = 1 << 20
GIB = 1 << 30
IMAGE = 900 * MIB
"""Bytes in the engine for an OS image: its base, its build image and its runtime image."""
TOOLS = 750 * MIB
"""Bytes in the engine for the tools image and the emulator's image."""
RESULT = 64 * MIB
"""Bytes in out/ for one compilation with what is made of it."""
PACKAGES = 16 * MIB
"""Bytes in dist/ for the packages of one cell."""
APT_FUTURE = 10.0
"""Seconds by which apt's metadata may be from the future (apt.conf(5), Acquire::Max-FutureTime)."""
WRONG_CLOCK = 86_400.0
"""Seconds from which a clock stops builds: certificates and metadata of mirrors are renewed daily, and are refused."""
