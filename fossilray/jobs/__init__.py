"""Jobs that run on Ray: processing slides, inference, index builds, trainings."""
