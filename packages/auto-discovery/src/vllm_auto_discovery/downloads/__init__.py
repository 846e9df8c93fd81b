"""Downloads as processes of their own, which outlive the server that starts them."""
