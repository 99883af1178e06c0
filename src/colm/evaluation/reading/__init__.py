"""What people, programs and LaTeX write, read alike: signs, units, dates, lists, choices."""
