"""Run-time dispatch: prove that code which needs a feature runs only on CPUs that have it.

A library of a distribution may hold several implementations of one function, and choose one at run time by what CPUID
answers. The audit accepts code beyond the target only with a proof that it is chosen in this way (decision 0010). This
package looks for the proof, for one library and one feature at a time:

0. `nearby` looks at what refers to the code. Where those are few functions that ask the CPU themselves, they are run
   as below, but for the rest of the library, and nothing else is read.
1. `graph` reads the references of the whole library: which code and data can call, jump to, load or point to which.
2. `library_run` runs the functions that execute CPUID, in an abstract way, on a CPU that lacks the feature: in CPUID's
   answers the bits of the feature, and of features that need it, are 0, and all others are unknown. Then it runs the
   functions that use the results, and repeats that until nothing changes. `flow` runs one function: registers and
   memory hold abstract values (`values`), in which each bit is 0, 1 or unknown, and a branch whose condition is known
   is taken one way only.
3. `search` computes what can be reached from outside of the library. A function that was run leads only to what it
   can reach on that CPU; any other function leads to everything that it refers to. If the code that needs the feature
   is not reached, that is the proof. If its function is reached and was run, it is enough that the function does not
   run the instructions which need the feature.

Why this is sound: every step includes more than what can really happen. An unknown value may be anything. Code that is
not understood leaves unknown values, and everything that it refers to counts as reached. A function that cannot be
decoded, or takes too long, is not proven. `flow` states the assumptions about compiled code that are made nevertheless.

Some libraries keep CPUID's answer where this analysis cannot follow it. `known` has a table of such libraries, by
package and version, for which people have looked at the source. `local` has tests that need no CPUID, such as that of
libgcc's unwinder, and `go` what is particular to Go. `fixed` reads programs with a fixed address, whose references no
relocation tells.

In a tree that is built here, evidence counts for the distribution's own libraries only. In files that others built, it
counts for all of them, and each is told with what was dispatched and why.
"""
