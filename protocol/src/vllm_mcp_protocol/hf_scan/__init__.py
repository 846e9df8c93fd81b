"""How one repository of a cache, or one folder with a model, is read. `hf_inventory_scan` is the way in."""
