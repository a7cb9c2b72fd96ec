"""Pages, charts, contact sheets and tables, and their templates."""
