"""Submission of the slide job to a running cluster, and its status there."""

from fossilray.jobs.submission.client import Job, JobClient
from fossilray.jobs.submission.request import DriverNeeds, JobRequest, Runtime, plan_job

__all__ = ["DriverNeeds", "Job", "JobClient", "JobRequest", "Runtime", "plan_job"]
