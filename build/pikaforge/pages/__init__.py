"""Pages for people: what the index page of a published root and the page of a build report share."""
