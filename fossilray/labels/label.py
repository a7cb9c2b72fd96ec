"""A label of one object: the object with its box and scan, the occurrence, who gave it and when."""

from __future__ import annotations

from dataclasses import dataclass

from fossilray.labels.occurrence import Occurrence

ObjectKey = tuple[str, int, str]
"""slide_id, object_id, attempt; of a missed object slide_id, MISSED and the box as text."""
MISSED = -1
"""Instead of the object_id, of an object that the detector missed."""
Box = tuple[int, int, int, int]
"""x_min, y_min, x_max, y_max in level-0 px."""


@dataclass(frozen=True)
class Scan:
    """The pixels that a box lies on; fields are None where a run or a round does not record them."""

    scan_id: str | None = None
    """Identity of the scan, as in `slides`."""
    width: int | None = None
    height: int | None = None
    bounds_x: int | None = None
    bounds_y: int | None = None
    bounds_width: int | None = None
    bounds_height: int | None = None

    @property
    def is_known(self) -> bool:
        return self.scan_id is not None or self.size is not None

    @property
    def size(self) -> tuple[int | None, ...] | None:
        """Size and bounds in px; None if they are not recorded."""
        size = (self.width, self.height, self.bounds_x, self.bounds_y, self.bounds_width, self.bounds_height)
        return None if None in size else size

    def shows_same_pixels(self, other: Scan) -> bool | None:
        """Whether two scans are one, by their identity or, where one of them has none, by size and bounds.

        None: neither can be compared.
        """
        if self.scan_id is not None and other.scan_id is not None:
            return self.scan_id == other.scan_id
        if self.size is not None and other.size is not None:
            return self.size == other.size
        return None


@dataclass(frozen=True)
class Label:
    """One label of one object, or of a missed one."""

    slide_id: str
    object_id: int | None
    """None: an object that the detector missed, known by its slide and box."""
    attempt: str
    """The attempt that made the object, or at which the object was missed."""
    box: Box
    who: str
    """The annotator."""
    occurrence: Occurrence
    scan: Scan = Scan()
    at: str = ""
    """When the label was given, ISO 8601; the time of its round where the source states none."""
    run_digest: str = ""
    """Of the run of its round."""
    is_withdrawn: bool = False
    """Whether it withdraws the annotator's earlier label of the object, whose name it repeats."""
    chosen_by: str = ""
    """How the object was chosen to be labelled: `audit` and its id, a random sample; empty where it is not stated."""

    @property
    def key(self) -> ObjectKey:
        if self.object_id is None:
            return (self.slide_id, MISSED, " ".join(map(str, self.box)))
        return (self.slide_id, self.object_id, self.attempt)

    @property
    def is_missed(self) -> bool:
        return self.object_id is None

    @property
    def shown(self) -> str:
        """The object, for messages."""
        if self.object_id is None:
            return f"{self.slide_id} missed at {self.box[0]}, {self.box[1]}"
        return f"{self.slide_id} #{self.object_id}"
