"""Why a head names a crop as it does: maps of what its answer comes from, and sheets of them."""
