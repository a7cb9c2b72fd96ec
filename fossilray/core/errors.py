"""Every error fossilray raises on purpose, in one tree.

FossilrayError
├── UsageError                       the command or configuration is wrong; exit code 2
│   ├── ConfigError                  unknown key, value out of range, unreadable file
│   ├── CatalogError                 a catalog lacks a column, repeats a slide, or changes a frozen row
│   ├── RunMismatch                  the run directory was started with another configuration
│   ├── RunNotFound                  no run.json where a run was expected
│   ├── QueryError                   SQL that DuckDB refuses
│   └── AgeTooRecent                 what is to be deleted may still be in use
├── WeightsError                     a weight file is missing, of another architecture, or unsafe to load
├── WorkerError                      workers cannot start
│   └── SlidesFailAlike              too many slides end in the same exception of the program
├── SourcesOut                       folders or stores of slides stay unreachable; their slides wait for the next start
├── SubmissionError                  a cluster's job server does not answer, or refuses a job
├── TrainingDiverged                 a training's loss or gradients are no numbers any more
├── StoreError                       the run directory cannot be written or cannot commit safely
│   ├── DamagedFile                  a file that fossilray wrote holds something else now
│   ├── ConditionalCreateUnsupported the store cannot create a file only if it is absent
│   ├── LinkInTheWay                 what is to be deleted lies behind a link, or is one
│   └── StoreOut                     an outage that a running job waits for
│       ├── StoreUnreachable         the store did not answer, after all retries; it may later
│       ├── StoreAccessDenied        it denied access; its administrator can grant it
│       └── StoreFull                there is no room for what is to be written
└── SlideError                       one slide cannot be processed; the run continues
    ├── NotASlide                    OpenSlide cannot read this file
    ├── SlideMissing                 its file is not there
    ├── SlideUnreadable              the system refuses to open its file: permissions, a broken link
    ├── MissingCompanion             a MIRAX slide lacks Slidedat.ini, Index.dat or a data file
    ├── MissingResolution            neither the slide nor the configuration states um per pixel
    ├── UnreadableRegion             pixels that should be there cannot be decoded
    ├── TooManyUnreadableTiles       more of the slide is unreadable than slides.max_lost_share allows
    ├── TooLarge                     the file claims more pixels or bytes than the configuration allows
    ├── TooManyObjects               the detector boxes more than slides.max_objects
    ├── AttemptExpired               the attempt outlived its deadline and must not commit
    └── TransientSlideError          may succeed when tried again
        ├── SourceUnreachable        the disk, share or store that holds the slide does not answer, or broke off
        │   ├── SourceAccessDenied   it answers, but not with the slide: no permission, no credentials
        │   └── SourceOut            its whole folder or bucket is unreachable: not the slide's failure
        ├── ScratchFull              no room to stage the slide just now
        └── OutOfMemory              the worker could not get the memory it asked for

Example:
    >>> import fossilray
    >>> try:
    ...     fossilray.query("missing", "SELECT 1")
    ... except fossilray.errors.RunNotFound as error:
    ...     reason = str(error)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

NAMES_BEFORE = {
    "NoConditionalCreate": "ConditionalCreateUnsupported",
    "SourceRefuses": "SourceAccessDenied",
    "StoreForbids": "StoreAccessDenied",
    "TooMuchLost": "TooManyUnreadableTiles",
    "UnsafeAge": "AgeTooRecent",
}
"""Class names in failure records of earlier versions, and what these classes are called now."""


class FossilrayError(Exception):
    """Root of the tree; its message is one sentence that names the remedy."""

    exit_code: ClassVar[int] = 1
    """Of a command that ends with it; docs/cluster/faults.md lists them all."""


class UsageError(FossilrayError):
    """The user can fix this before anything runs."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or --set is wrong."""


class CatalogError(UsageError):
    """A catalog of slides cannot be used."""


class RunMismatch(UsageError):
    """The run directory belongs to a run whose results would differ."""


class RunNotFound(UsageError):
    """There is no run at this place."""


class QueryError(UsageError):
    """DuckDB refused the SQL."""


class AgeTooRecent(UsageError):
    """Files of that age may belong to somebody who is still at work."""


class WeightsError(FossilrayError):
    """Weights cannot be loaded."""


class WorkerError(FossilrayError):
    """Workers cannot do their job; the run stops and can be resumed."""


class SlidesFailAlike(WorkerError):
    """One fault of the program fails slide after slide; what failed by it is tried again at the next start."""

    exit_code = 6


class SourcesOut(FossilrayError):
    """Slides are left that nobody can read at the moment; none of them counts as failed."""

    exit_code = 5


class SubmissionError(FossilrayError):
    """A cluster's job server cannot be reached or will not do it; jobs that it runs go on."""


class TrainingDiverged(FossilrayError):
    """A training cannot go on; its last checkpoint can."""


class StoreError(FossilrayError):
    """The run directory cannot be used."""


class DamagedFile(StoreError):
    """A file in a store is not what was written, or may not be read; the message names it and what restores it."""


class ConditionalCreateUnsupported(StoreError):
    """The store ignores create-if-absent, so two workers could both commit a slide."""


class LinkInTheWay(StoreError):
    """A link was met where something was to be deleted; what it leads to may be somebody else's."""


class StoreOut(StoreError):
    """The store cannot be used just now; what it holds is safe, and a running job waits."""

    exit_code = 5


class StoreUnreachable(StoreOut):
    """The store does not answer, and may answer again."""


class StoreAccessDenied(StoreOut):
    """The store refuses these credentials; permissions come and go."""


class StoreFull(StoreOut):
    """The disk or the quota of the store is full; space can be freed."""


class SlideError(FossilrayError):
    """One slide fails; `transient` says whether another attempt may succeed."""

    transient = False


class NotASlide(SlideError):
    """OpenSlide cannot open the file."""


class SlideMissing(SlideError):
    """There is no file of that name."""


class SlideUnreadable(SlideError):
    """The operating system refuses to open the file."""


class MissingCompanion(SlideError):
    """Part of a slide made of several files is absent or too short."""


class MissingResolution(SlideError):
    """Nobody states the slide's um per pixel."""


class UnreadableRegion(SlideError):
    """A region's pixels could not be decoded."""


class TooManyUnreadableTiles(SlideError):
    """The share of unreadable tiles is above the configured limit."""


class TooLarge(SlideError):
    """The file claims more than the configuration lets one slide have."""


class TooManyObjects(SlideError):
    """The detector boxes more than one slide may have; noise looks like that."""


class AttemptExpired(SlideError):
    """The attempt ran past its deadline."""

    transient = True


class TransientSlideError(SlideError):
    """A fault outside the slide."""

    transient = True


class SourceUnreachable(TransientSlideError):
    """The slide's own disk, share or store cannot be reached."""


class SourceAccessDenied(SourceUnreachable):
    """The slide's own store will not show it; whoever grants permissions can change that."""


class SourceOut(SourceUnreachable):
    """The folder or the bucket that holds the slide is out; the slide's neighbours cannot be read either."""

    def __init__(self, message: str, *, root: str) -> None:
        super().__init__(message)
        self.root = root
        """What is out: a folder, or protocol and bucket."""

    def __reduce__(self) -> tuple[Callable[..., SourceOut], tuple[str, str]]:
        return _source_out, (str(self), self.root)


class ScratchFull(TransientSlideError):
    """The disk for staged slides has no room."""


class OutOfMemory(TransientSlideError):
    """Memory ran out while the slide was worked on."""


def _source_out(message: str, root: str) -> SourceOut:
    return SourceOut(message, root=root)
