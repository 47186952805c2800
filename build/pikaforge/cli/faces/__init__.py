"""Faces: what a run shows, for each kind of reader. The reporter makes events of a run, and a face shows them."""
