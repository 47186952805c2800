"""Sites: where a repository is published to. A folder, a WebDAV server, a Python index."""
