"""OS families: what image recipes, package managers and service managers differ in. See `family.OsFamily`."""
