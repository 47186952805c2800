"""The image stage: base image, build image, runtime image, and the facts of them."""
