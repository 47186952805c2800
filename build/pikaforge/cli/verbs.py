"""The verbs of the command line: where each one is, and what its help page says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pikaforge import errors
from pikaforge.config.registry import FORMATS, STAGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A verb of the command line.

    In `about`, `{stages}` and `{formats}` stand for the registered names.
    """

    module: str
    """Its module in `commands`, which has a function of the verb's name."""
    summary: str
    """One line for the list of verbs."""
    about: str
    needs: str
    """What a machine must have for it."""
    examples: tuple[tuple[str, str], ...]
    """Commands, each behind a remark."""

    def description(self) -> str:
        """Return what stands before the options."""
        return self.about.format(stages=", ".join(STAGES.names), formats=", ".join(FORMATS.names))

    def epilog(self) -> str:
        """Return what stands behind the options: needs and examples."""
        lines = (line for remark, command in self.examples for line in (f"  # {remark}", f"  {command}"))
        return f"Needs: {self.needs}\n\n" + "\n".join(["examples:", *lines])


ENGINE = "a container engine (docker, or podman with its socket; DOCKER_HOST names one elsewhere)"

BUILD: dict[str, Verb] = {
    "build": Verb(
        module="build",
        summary="build, test and pack the selected cells",
        about="""\
Take the selected cells through the stages: {stages}.

Results are kept in out/ under a hash of their inputs. So a second run does only what has changed, and a run that was \
stopped continues where it was. Packages are written to dist/IMAGE/, with their digests in SHA256SUMS. \
dist/report.json records what was built and what was checked; dist/report.html shows it. Logs are in out/logs/. One \
failed cell does not stop the others.""",
        needs=f"{ENGINE}, or --engine host; and the network, until the inputs are pinned and downloaded.",
        examples=(
            ("one model, for the OS of this machine", "nox -s build -- R620"),
            ("all R6x0 models on EL 7, with all allocators", "nox -s build -- 'R6?0-el7-*'"),
            ("try the pipeline with the sample server", "nox -s build -- R620 --os debian12 --source sample"),
        ),
    ),
    "plan": Verb(
        module="plan",
        summary="show what a build would do, and why",
        about="""\
Show the cells and the nodes (runs of a stage) of a build: which results are stored already, and why others are not. \
Nothing is started, and nothing is written. The exit status is 2 if a build would refuse the selection.""",
        needs="neither an engine nor the network. If no engine answers, the plan assumes that each target can be run.",
        examples=(
            ("what one model needs on one OS", "nox -s plan -- R620 --os debian12"),
            ("all cells, for a script", "nox -s plan -- all --os all --json"),
        ),
    ),
    "matrix": Verb(
        module="plan",
        summary="show models, targets and cells of matrix.yaml; explain a cell",
        about="""\
Show the models with their CPUs, CPU target, images and allocators, a line for each model. --all lists the cells \
instead. --why CELL explains one: its target, its flags, and what the compiler, the matrix and the emulator do to it.

--format json prints the cells for scripts; a SELECTOR chooses what a build would take then. \
--format github prints the matrix of a GitHub Actions workflow: one job for each compilation, or --chunks N jobs with \
several. In a step of a workflow it also sets the outputs `matrix` and `jobs`. --format gitlab prints a child pipeline \
of GitLab, whose jobs run `build` with the same selectors and a --chunk.""",
        needs="neither an engine nor the network.",
        examples=(
            ("all models", "nox -s matrix"),
            ("all cells of some models", "nox -s matrix -- 'R6*' --all"),
            ("why a cell is built as it is", "nox -s matrix -- --why R620-el7-none"),
            ("the cells of one model, for a script", "nox -s matrix -- 'R620-*' --format json"),
            ("20 jobs for GitHub", "nox -s matrix -- all --os all --format github --chunks 20"),
        ),
    ),
    "bundle": Verb(
        module="bundle",
        summary="write one file with all that a build without network needs",
        about="""\
Write one archive with everything that a build of the selected cells needs from outside: this tool, commits, patches, \
tarballs, images, and the Python packages that the tool uses. What is not there yet is fetched or made first. \
`bash setup.sh --bundle FILE SELECTOR` builds from it on a machine without network.

The manifest in it has the SHA-256 of each file. With PIKAFORGE_SIGNING_KEY, its digest is signed. Private keys and \
credentials never go into it.""",
        needs=f"{ENGINE}, or --engine host; zstd, unless FILE is a .tar.gz; and the network.",
        examples=(
            ("one model on one OS", "nox -s bundle -- R620 --os debian12"),
            ("for two versions of Python", "nox -s bundle -- R620 --os el9 --python 3.11 --python 3.12"),
        ),
    ),
    "sweep": Verb(
        module="sweep",
        summary="build one cell of each compilation, and write docs/coverage.md",
        about="""\
Build one cell for each compilation (image, CPU target, allocator), and write what was built and tried to \
docs/coverage.md. Rows of earlier sweeps stay, unless this one replaces them. Without SELECTOR, all models and images \
are taken.

An input that cannot be reached from here (a registry, a mirror) makes a row `not tried`, and is no failure.""",
        needs=f"{ENGINE}; and the network.",
        examples=(
            ("every compilation with the default allocators", "nox -s sweep -- --source sample"),
            ("one of four slices of them", "nox -s sweep -- --source sample --slice 1/4"),
        ),
    ),
}

CHECK: dict[str, Verb] = {
    "audit": Verb(
        module="audit",
        summary="check that programs and packages run on a model's CPUs",
        about="""\
Decode every instruction of ELF files, and compare the CPU features with those of a hardware model or a \
microarchitecture. What is linked so that it would fail elsewhere is reported, too. Files may come from anywhere, and \
none of them is run.

Folders and packages ({formats}) are searched for ELF files. The waivers of matrix.yaml and of --waivers apply. The \
last lines have the verdict on each file. The exit status is 4 if a path is refused.""",
        needs="neither an engine nor the network.",
        examples=(
            ("a program, for all CPUs of a model", "nox -s audit -- /usr/sbin/some-server --model R620"),
            ("a package, for a microarchitecture", "nox -s audit -- some.rpm --target sandybridge"),
            ("waivers for what is refused, to be examined", "nox -s audit -- some.rpm --model R620 --draft-waivers"),
        ),
    ),
    "check": Verb(
        module="check",
        summary="check matrix.yaml, patch series and waivers for mistakes",
        about="""\
Read configuration files as a build does, and report all mistakes in them, with line and path. Files that they name \
(the recipe, the patches) must be there. A file is a matrix, a patch series or a file of waivers; its keys say which. \
The exit status is 2 if one is wrong. Without FILE, the matrix is checked.""",
        needs="neither an engine nor the network.",
        examples=(
            ("the matrix of this checkout", "nox -s check"),
            ("some files, as a hook before a commit does", "nox -s check -- matrix.yaml patches/v3.4.0/series.yaml"),
        ),
    ),
    "verify": Verb(
        module="verify",
        summary="check digests, signatures, provenance and contents of packages",
        about="""\
Check packages against what was recorded when they were built: digests, signatures, provenance, and each file in \
them. Then audit their code again. PATH is a package, a folder of packages, a folder of such folders, or the URL of a \
package or folder (http, https).

With a key, what is not signed by it is refused. Keys are given by --key or PIKAFORGE_VERIFY_KEYS. The exit status is \
4 if a check says no.""",
        needs="GnuPG, where there are signatures.",
        examples=(
            ("the packages of one image", "nox -s verify -- dist/debian12 --key public.asc"),
            ("packages that nobody has signed", "nox -s verify -- dist/debian12 --unsigned"),
        ),
    ),
    "doctor": Verb(
        module="doctor",
        summary="show what this machine lacks, what that stops, and what mends it",
        about="""\
Look at what a build needs: the configuration, the engine, disk, memory, programs, the servers that the configuration \
names, the emulator, keys, and the clock. Nothing is changed, and no question takes longer than a few seconds.

Each line is ok, a warning, or lacking: then a build would fail. --json prints the same for scripts; \
doctor.schema.json describes it. The exit status is 3 if something is lacking.""",
        needs="neither an engine nor the network: it says which of them is missing.",
        examples=(
            ("for a build of this machine's OS", "nox -s doctor"),
            ("for all images, as a file for a script", "nox -s doctor -- --os all --json"),
            ("without the source's server, for the sample", "nox -s doctor -- --source sample"),
        ),
    ),
    "bench": Verb(
        module="bench",
        summary="load test; comparison of models or allocators under load",
        about="""\
Build what is needed, then put a load on servers. With one cell, or with --keys, it is a load test: so many random \
keys are written once each, and at the end the server must have them. Without --keys it takes about a minute. The same \
command goes on with a test that was interrupted.

With several cells, or with --seconds, the servers of the selected models and allocators are compared in turns, as \
ratios. The baseline is the allocator `none`, or the model that is named first. A model that this machine's CPU cannot \
run is left out, and the output says so. All cells have one image. Figures and plots are in out/bench/.""",
        needs=f"{ENGINE}, whose CPU can run a target; matplotlib, which the nox session installs.",
        examples=(
            ("the load of 500 million keys", "nox -s bench -- R620 --keys 500M --expire-share 0.2 --ttl 86400"),
            ("all allocators", "nox -s bench -- R620 --os debian12 --allocators"),
            ("models", "nox -s bench -- x86_64_v2 R620 R640 --os debian12"),
            ("a short look", "nox -s bench -- R620 --source sample --allocators --seconds 5 --rounds 1"),
        ),
    ),
}

PUBLISH: dict[str, Verb] = {
    "report": Verb(
        module="report",
        summary="put the build reports of several runs on one page",
        about="""\
Write one page, dist/report.html, from the report.json of each DIR and of the folders in it. A build writes the page \
of its own report; this is for the jobs of a CI run. The page is one file that loads nothing. It shows the matrix as a \
grid, and for each cell stages, checks, findings, flags, linkage, digests and packages.

If two reports have a cell, the later one counts. Reports that contradict each other are refused. With --matrix, cells \
that no report has are shown as not built, and reports of other products are left out.""",
        needs="neither an engine nor the network, unless --since is a URL.",
        examples=(
            ("the jobs' reports, with what is not built", "nox -s report -- dist --matrix matrix.yaml"),
            ("what has changed since the last published one", "nox -s report -- --since repo-stable"),
        ),
    ),
    "publish": Verb(
        module="publish",
        summary="put packages into repositories; roll back; promote",
        about="""\
Put the packages in dist/ into the repositories of a destination. Destinations are under `publish` in matrix.yaml. \
Without --yes the changes are shown, and nothing is changed. Readers see the old generation of a repository or the \
new one, never a half-written one.

SELECTOR names cells that were built (with --rollback and --promote: that were published), of every image and \
allocator unless --os and --allocator say which. With PIKAFORGE_SIGNING_KEY, packages and metadata are signed. \
PIKAFORGE_NAME_USER and PIKAFORGE_NAME_PASSWORD are the credentials of the destination NAME.""",
        needs="the libraries that the nox session installs; for a server, the network and credentials.",
        examples=(
            ("show what would change", "nox -s publish -- R620 --to staging"),
            ("do it", "nox -s publish -- R620 --to staging --yes"),
            ("copy it from staging to stable", "nox -s publish -- R620 --promote staging:stable --yes"),
            ("go back to the generation before", "nox -s publish -- R620 --rollback --to stable --yes"),
        ),
    ),
}

UPKEEP: dict[str, Verb] = {
    "lock": Verb(
        module="upkeep",
        summary="renew the pins in sources.lock, and show what changed",
        about="""\
Look up the source and its patches again, write their pins to sources.lock, and show the difference. Base images keep \
their pins, unless --image names them.""",
        needs=f"the network; with --image also {ENGINE}.",
        examples=(
            ("the source and its patches", "invoke lock"),
            ("also the base of an image", "invoke lock --image debian12"),
        ),
    ),
    "patches": Verb(
        module="upkeep",
        summary="list the patch series, or check it against a source",
        about="""\
`list` shows the entries of the patch series with their pins. `check` prepares the source, and shows for each entry \
whether it applies, is present already, or conflicts. The exit status is 4 if one conflicts.""",
        needs=f"for `list` nothing; for `check` {ENGINE}.",
        examples=(
            ("the entries", "invoke patches.list"),
            ("their state in a fork", "invoke patches.check --source https://example.org/fork.git#main"),
        ),
    ),
    "images": Verb(
        module="upkeep",
        summary="list or remove the images that were made in the engine",
        about="""\
`list` shows the images that the tool has made in the container engine. `remove` removes them. The next build makes \
again what it needs.""",
        needs=f"{ENGINE}.",
        examples=(("all images", "invoke images.list"), ("free their space", "invoke images.remove")),
    ),
    "cache": Verb(
        module="cache",
        summary="show, check, remove stored results and caches",
        about="""\
`list` shows the size of stored results, downloads and git repositories in out/, and the compiler caches in the \
engine. `clean` removes them. The next build makes again what it needs.

`info` shows the results of each stage, and whether the shared store answers. `prune` removes results, those first \
that were not used for the longest time, but none that a running build uses. `verify` compares all files of results \
with their digests; the exit status is 4 if some are damaged and were not removed.""",
        needs=f"for the compiler caches, and for `clean`, {ENGINE}, or --engine host.",
        examples=(
            ("their size", "invoke cache.list"),
            (
                "remove what was not used for a month, and all beyond 20 GB",
                "invoke cache.prune --keep 20G --older-than 30",
            ),
            ("remove what is damaged", "invoke cache.verify --yes"),
            ("remove everything", "invoke cache.clean"),
        ),
    ),
    "completion": Verb(
        module="completion",
        summary="print the script by which bash or zsh completes names",
        about="""\
Print the script by which a shell completes verbs, options and names, also behind `nox -s VERB --`. Names come from a \
list in out/, which the shell lets this tool write anew when matrix.yaml has changed; `names` does only that.

Keep the script in a file. ~/.bashrc reads it by `source FILE`, ~/.zshrc by `eval "$(<FILE)"` behind `compinit`.""",
        needs="neither an engine nor the network; shtab, which the nox session installs.",
        examples=(
            ("for bash", "nox -s completion -- bash"),
            ("for zsh", "nox -s completion -- zsh"),
        ),
    ),
    "manual": Verb(
        module="manual",
        summary="write the man page, docs/pikaforge.1",
        about="""\
Write the man page into the checkout, from the same texts as these help pages. Run it after a change of a verb or an \
option. Packages of this tool install it as share/man/man1/pikaforge.1.""",
        needs="neither an engine nor the network; argparse-manpage, which the nox session installs.",
        examples=(
            ("write it", "nox -s manual"),
            ("with a traceback, if the library fails", "nox -s manual -- --debug"),
        ),
    ),
    "sample": Verb(
        module="upkeep",
        summary="write the git repositories of the sample server to a folder",
        about="""\
Write the git repositories that `--source sample` builds to a folder, to look at them or to clone them.""",
        needs="git.",
        examples=(
            ("into a new folder", "invoke sample /tmp/sample"),
            ("into a folder here, by nox", "nox -s tool -- sample sample-repositories"),
        ),
    ),
    "schema": Verb(
        module="upkeep",
        summary="write the JSON schemas of configuration, report and repositories",
        about="""\
Write the JSON schemas of matrix.yaml, of patch series, of dist/report.json and of repo.json into the checkout, and \
the alert rules and the dashboard of the product into monitoring/. Run it after a change of their models.""",
        needs="neither an engine nor the network.",
        examples=(
            ("all schemas", "invoke schema"),
            ("the same by nox", "nox -s tool -- schema"),
        ),
    ),
    "clean": Verb(
        module="upkeep",
        summary="remove out/, dist/ and tool caches from the checkout",
        about="""\
Remove out/, dist/ and the caches of tools from the checkout. Images and compiler caches in the engine stay: see \
`images` and `cache`.""",
        needs="neither an engine nor the network.",
        examples=(
            ("the checkout", "invoke clean"),
            ("the same by nox", "nox -s tool -- clean"),
        ),
    ),
}

HEADINGS = {"Build": BUILD, "Check": CHECK, "Publish": PUBLISH, "Upkeep (`invoke --list`)": UPKEEP}
VERBS: dict[str, Verb] = {name: verb for verbs in HEADINGS.values() for name, verb in verbs.items()}

ABOUT = """\
Build one package for each hardware model and OS image, and check that it runs there. matrix.yaml says what to build.

`nox -s VERB -- ARGUMENTS` runs a verb together with the libraries that it needs; `invoke` runs those for upkeep."""


def listing(headings: Iterable[str] = tuple(HEADINGS)) -> str:
    """Return the verbs with their summaries, under headings."""
    width = max(map(len, VERBS))
    blocks = [
        "\n".join(
            [f"{heading}:", *(f"    {name:<{width}}  {verb.summary}" for name, verb in HEADINGS[heading].items())]
        )
        for heading in headings
    ]
    return "\n\n".join(blocks)


STATUSES: dict[int, str] = {
    errors.EXIT_DONE: "done",
    errors.EXIT_CONFIG: "the command line, a configuration file or the selection is wrong",
    errors.EXIT_HOST: "this machine lacks something: an engine, a program, the network",
    errors.EXIT_STAGE: "a stage failed; or audit, verify or patches check said no",
    errors.EXIT_PUBLISH: "publishing failed",
    errors.EXIT_INTERRUPTED: "interrupted by Ctrl-C, or 128 + N by signal N; containers are removed",
}


def statuses() -> str:
    """Return the exit statuses with their meanings."""
    return "\n".join(["exit status:", *(f"    {status:<5} {meaning}" for status, meaning in STATUSES.items())])
