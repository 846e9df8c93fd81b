"""What is fetched of a repository, and what a download is."""
