"""The slide job handed to a running cluster: what it is asked to run, and how it fares there."""

from fossilray.jobs.submission.client import Job, JobClient
from fossilray.jobs.submission.request import DriverNeeds, JobRequest, Runtime, plan_job

__all__ = ["DriverNeeds", "Job", "JobClient", "JobRequest", "Runtime", "plan_job"]
