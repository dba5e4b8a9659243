"""The pages in a browser: the local page of `mt3 serve`, and the HTML report."""
