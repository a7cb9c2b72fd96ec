"""Parts of a request that routes take: the run that it names, and the annotator whose token it has."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException, Request

from fossilray.serve.access import token_of
from fossilray.serve.annotators import Annotator, Annotators
from fossilray.serve.served_run import ServedRun


def _annotator(request: Request) -> Annotator:
    annotators: Annotators = request.app.state.annotators
    annotator = annotators.of_token(token_of(request.headers))
    if annotator is None:
        raise HTTPException(401, "give your token")
    return annotator


def _run(request: Request, run: str) -> ServedRun:
    served: ServedRun | None = request.app.state.runs.get(run)
    if served is None:
        raise HTTPException(404, f"no run {run!r:.100} is served")
    return served


Run = Annotated[ServedRun, Depends(_run)]
Who = Annotated[Annotator, Depends(_annotator)]
