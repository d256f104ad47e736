"""Studies: many runs that differ in what is asked about, and one table of what became of them."""
