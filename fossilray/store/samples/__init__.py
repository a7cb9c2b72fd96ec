"""The samples of a run's slides: rounds of corrections that people make after the run is frozen."""
