"""Pages of the documentation, drawn from results; nothing here measures."""
