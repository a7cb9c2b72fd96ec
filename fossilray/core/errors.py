"""Errors that fossilray raises, in one tree.

FossilrayError
├── UsageError                       the command or the configuration is wrong; exit code 2
│   ├── ConfigError                  unknown key, value out of range, unreadable file
│   ├── CatalogError                 a catalog lacks a column, repeats a slide, or changes a frozen row
│   ├── RunMismatch                  the run directory was started with another configuration
│   ├── RunNotFound                  there is no run.json where a run is expected
│   ├── QueryError                   DuckDB refuses the SQL
│   └── AgeTooRecent                 files to delete may still be in use
├── WeightsError                     a weight file is missing, of another architecture, or unsafe to load
├── WorkerError                      workers cannot start
│   └── SlidesFailAlike              too many slides end in the same exception of the program
├── SourcesOut                       folders or stores of slides stay unreachable; the next job resumes their slides
├── SubmissionError                  a cluster's job server is unreachable, or refuses a job
├── TrainingDiverged                 the loss or the gradients of a training are not finite
├── StoreError                       the run directory cannot be written, or cannot commit safely
│   ├── DamagedFile                  a file that fossilray wrote has other content now
│   ├── ConditionalCreateUnsupported the store cannot create a file only if it is absent
│   ├── LinkInTheWay                 a file to delete is a link, or lies behind one
│   └── StoreOut                     an outage that a running job waits for
│       ├── StoreUnreachable         the store is unreachable, after all retries
│       ├── StoreAccessDenied        the store denies access; its administrator can grant it
│       └── StoreFull                the store has no room
└── SlideError                       one slide cannot be processed; the run continues
    ├── NotASlide                    the file is damaged or no slide
    ├── UnsupportedSlide             a sound slide that OpenSlide does not read; it can be converted
    ├── MisnamedSlide                files of a MIRAX slide must be renamed
    ├── SlideMissing                 the file is missing
    ├── SlideUnreadable              the operating system cannot open the file: permissions, a broken link
    ├── MissingCompanion             a MIRAX slide lacks Slidedat.ini, Index.dat or a data file
    ├── UnsupportedOrientation       the file states that its pixels are rotated or mirrored
    ├── MissingResolution            neither the slide nor the configuration states um per pixel
    │   └── UnequalPixels            the slide states different um per pixel across and down
    ├── DoubtfulSlide                a check finds what slides.strict_doubts refuses
    ├── UnreadableRegion             pixels cannot be decoded
    ├── TooManyUnreadableTiles       more of the slide is unreadable than slides.max_lost_share allows
    ├── TooLarge                     the file claims more pixels or bytes than the configuration allows
    ├── TooManyObjects               the detector finds more boxes than slides.max_objects
    ├── AttemptExpired               the attempt is past its deadline and must not commit
    └── TransientSlideError          a later attempt may succeed
        ├── SourceUnreachable        the disk, share or store of the slide is unreachable, or was interrupted
        │   ├── SourceAccessDenied   it denies access: permissions or credentials are missing
        │   └── SourceOut            the whole folder or bucket is unreachable; not a failure of the slide
        ├── ScratchFull              there is no room to stage the slide now
        └── OutOfMemory              the worker ran out of memory

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
"""Current class names by those in failure records of earlier versions."""


class FossilrayError(Exception):
    """Root of the tree; its message is one sentence that names the remedy."""

    exit_code: ClassVar[int] = 1
    """Exit code of a command that ends with this error; docs/cluster/faults.md lists all exit codes."""


class UsageError(FossilrayError):
    """Wrong command, configuration or input; raised before work starts where possible."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration file or an assignment of --set or --train-set is wrong."""


class CatalogError(UsageError):
    """A catalog of slides cannot be used."""


class RunMismatch(UsageError):
    """The run directory belongs to a run whose results would differ."""


class RunNotFound(UsageError):
    """There is no run at this path or URL."""


class QueryError(UsageError):
    """DuckDB refused the SQL."""


class AgeTooRecent(UsageError):
    """Files of this age may belong to an attempt that is still running."""


class WeightsError(FossilrayError):
    """Weights cannot be loaded."""


class WorkerError(FossilrayError):
    """Workers cannot work; the job stops and can be resumed."""


class SlidesFailAlike(WorkerError):
    """Many slides fail by the same exception of the program; the next job tries them again."""

    exit_code = 6


class SourcesOut(FossilrayError):
    """Slides remain whose folders or stores are unreachable; they do not count as failed."""

    exit_code = 5


class SubmissionError(FossilrayError):
    """A cluster's job server is unreachable or refuses a request; its running jobs continue."""


class TrainingDiverged(FossilrayError):
    """A training diverged; its last checkpoint can be resumed."""


class StoreError(FossilrayError):
    """The run directory cannot be used."""


class DamagedFile(StoreError):
    """A file in a store is damaged or unreadable; the message names it and the way to restore it."""


class ConditionalCreateUnsupported(StoreError):
    """The store ignores conditional create, so two workers could commit the same slide."""


class LinkInTheWay(StoreError):
    """A file to delete is a link or lies behind one; its target may not belong to the run."""


class StoreOut(StoreError):
    """The store is unavailable; its content is safe, and a running job waits."""

    exit_code = 5


class StoreUnreachable(StoreOut):
    """The store is unreachable and may recover."""


class StoreAccessDenied(StoreOut):
    """The store denies access with these credentials."""


class StoreFull(StoreOut):
    """The disk or the quota of the store is full; space can be freed."""


class SlideError(FossilrayError):
    """A slide cannot be processed; `transient` states whether another attempt may succeed."""

    transient = False


class NotASlide(SlideError):
    """OpenSlide cannot open the file."""


class UnsupportedSlide(SlideError):
    """OpenSlide does not read slides of this kind; the file itself is sound."""


class MisnamedSlide(SlideError):
    """Files of a MIRAX slide have other names than OpenSlide needs, and cannot be opened as they are."""


class SlideMissing(SlideError):
    """The file of the slide is missing."""


class SlideUnreadable(SlideError):
    """The operating system cannot open the file."""


class MissingCompanion(SlideError):
    """A file of a multi-file slide is missing or too short."""


class UnsupportedOrientation(SlideError):
    """The pixels of the slide are stored rotated or mirrored."""


class MissingResolution(SlideError):
    """The um per pixel of the slide are unknown."""


class UnequalPixels(MissingResolution):
    """The um per pixel that the slide states across and down differ."""


class DoubtfulSlide(SlideError):
    """A check of the slide finds what `slides.strict_doubts` refuses."""


class UnreadableRegion(SlideError):
    """A region's pixels could not be decoded."""


class TooManyUnreadableTiles(SlideError):
    """The share of unreadable tiles is above the configured limit."""


class TooLarge(SlideError):
    """The file claims more pixels or bytes than the configuration allows."""


class TooManyObjects(SlideError):
    """The detector finds more boxes than the configuration allows, as in noise."""


class AttemptExpired(SlideError):
    """The attempt ran past its deadline."""

    transient = True


class TransientSlideError(SlideError):
    """A fault outside the slide; another attempt may succeed."""

    transient = True


class SourceUnreachable(TransientSlideError):
    """The disk, share or store of the slide is unreachable."""


class SourceAccessDenied(SourceUnreachable):
    """The store of the slide denies access; its administrator can grant it."""


class SourceOut(SourceUnreachable):
    """The folder or bucket of the slide is unreachable; the other slides in it cannot be read either."""

    def __init__(self, message: str, *, root: str) -> None:
        super().__init__(message)
        self.root = root
        """The unreachable folder, or protocol and bucket."""

    def __reduce__(self) -> tuple[Callable[..., SourceOut], tuple[str, str]]:
        return _source_out, (str(self), self.root)


class ScratchFull(TransientSlideError):
    """The scratch disk has no room for the slide."""


class OutOfMemory(TransientSlideError):
    """Memory ran out while the slide was processed."""


def _source_out(message: str, root: str) -> SourceOut:
    return SourceOut(message, root=root)
