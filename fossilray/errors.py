"""Every error fossilray raises on purpose, in one tree.

FossilrayError
├── UsageError                the command or configuration is wrong; exit code 2
│   ├── ConfigError           unknown key, value out of range, unreadable file
│   ├── CatalogError          a catalog lacks a column, repeats a slide, or changes a frozen row
│   ├── RunMismatch           the run directory was started with another configuration
│   ├── RunNotFound           no run.json where a run was expected
│   ├── QueryError            SQL that DuckDB refuses
│   └── UnsafeAge             what is to be swept may still be in use
├── WeightsError              a weight file is missing, of another architecture, or unsafe to load
├── WorkerError               workers cannot start, or met a fault of fossilray itself
├── SubmissionError           a cluster's job server does not answer, or refuses a job
├── TrainingDiverged          a training's loss or gradients are no numbers any more
├── StoreError                the run directory cannot be written or cannot commit safely
│   ├── DamagedFile           a file that fossilray wrote holds something else now
│   ├── NoConditionalCreate   the store cannot create a file only if it is absent
│   ├── LinkInTheWay          what is to be deleted lies behind a link, or is one
│   ├── StoreUnreachable      the store did not answer, however often it was asked; it may later
│   └── StoreForbids          it answered that it was not allowed; whoever grants permissions can change that
└── SlideError                one slide cannot be processed; the run goes on
    ├── NotASlide             OpenSlide cannot read this file
    ├── MissingCompanion      a MIRAX slide lacks Slidedat.ini, Index.dat or a data file
    ├── MissingResolution     neither the slide nor the configuration states um per pixel
    ├── UnreadableRegion      pixels that should be there cannot be decoded
    ├── TooMuchLost           more of the slide is unreadable than slides.max_lost_share allows
    ├── TooLarge              the file claims more pixels or bytes than the configuration allows
    ├── AttemptExpired        the attempt outlived its deadline and must not commit
    └── TransientSlideError   may succeed when tried again
        ├── SourceUnreachable the store that holds the slide does not answer, or broke off
        │   └── SourceRefuses it answers, but not with the slide: no permission, no credentials
        ├── ScratchFull       no room to stage the slide just now
        └── OutOfMemory       the worker could not get the memory it asked for
"""


class FossilrayError(Exception):
    """Root of the tree; its message is one sentence that names the remedy."""


class UsageError(FossilrayError):
    """The user can fix this before anything runs."""


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


class UnsafeAge(UsageError):
    """Files of that age may belong to somebody who is still at work."""


class WeightsError(FossilrayError):
    """Weights cannot be loaded."""


class WorkerError(FossilrayError):
    """Workers cannot do their job; the run stops and can be resumed."""


class SubmissionError(FossilrayError):
    """A cluster's job server cannot be reached or will not do it; jobs that it runs go on."""


class TrainingDiverged(FossilrayError):
    """A training cannot go on; its last checkpoint can."""


class StoreError(FossilrayError):
    """The run directory cannot be used."""


class DamagedFile(StoreError):
    """A file in a store is not what was written; the message names it, its use, and what restores it."""


class NoConditionalCreate(StoreError):
    """The store ignores create-if-absent, so two workers could both commit a slide."""


class LinkInTheWay(StoreError):
    """A link was met where something was to be deleted; what it leads to may be somebody else's."""


class StoreUnreachable(StoreError):
    """The store does not answer; what it holds is safe, and it may answer again."""


class StoreForbids(StoreError):
    """The store refuses these credentials; permissions come and go, and a running job waits for them."""


class SlideError(FossilrayError):
    """One slide fails; `transient` says whether another attempt may succeed."""

    transient = False


class NotASlide(SlideError):
    """OpenSlide cannot open the file."""


class MissingCompanion(SlideError):
    """Part of a slide made of several files is absent or too short."""


class MissingResolution(SlideError):
    """Nobody states the slide's um per pixel."""


class UnreadableRegion(SlideError):
    """A region's pixels could not be decoded."""


class TooMuchLost(SlideError):
    """The share of unreadable tiles is above the configured limit."""


class TooLarge(SlideError):
    """The file claims more than the configuration lets one slide have."""


class AttemptExpired(SlideError):
    """The attempt ran past its deadline."""

    transient = True


class TransientSlideError(SlideError):
    """A fault outside the slide."""

    transient = True


class SourceUnreachable(TransientSlideError):
    """The slide's own store cannot be reached."""


class SourceRefuses(SourceUnreachable):
    """The slide's own store will not show it; whoever grants permissions can change that."""


class ScratchFull(TransientSlideError):
    """The disk for staged slides has no room."""


class OutOfMemory(TransientSlideError):
    """Memory ran out while the slide was worked on."""
