"""From the text of a configuration file to a specification."""
