"""The image stage: base image, build image, runtime image, and their facts."""
