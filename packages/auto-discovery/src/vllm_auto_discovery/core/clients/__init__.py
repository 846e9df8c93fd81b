"""What clients' configurations must hold, and edits that leave the rest of a file alone."""
