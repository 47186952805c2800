"""OS families: differences in image recipes, package managers and service managers. See `family.OsFamily`."""
