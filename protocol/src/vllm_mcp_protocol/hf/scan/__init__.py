"""How one repository of a cache, or one folder with a model, is read. `hf.scanner` is the way in."""
