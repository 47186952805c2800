"""Run a plan: stages in their order, results by key, the build report and dist/."""
