"""Answers of builds that had nothing to do: kept with all that they looked at, and given again while that is the same.

It is no second way to decide what is up to date. A build decides it, by keys and digests; what it has read is recorded
(`host.watch`), and its answer is kept (`keep`). The next call compares all of that: arguments, environment, the tool's
own modules, every file with its digest, every folder, the engine, the images, the CPU (`state`, `answer`). Any
difference is a miss, and then the build decides again.

`request`, `state` and `answer` import little of Python and nothing of what builds: with it, nothing to do costs little.
"""
