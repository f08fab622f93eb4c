"""Before and after: the comparison, what it allows one to say, and the page that shows it."""
