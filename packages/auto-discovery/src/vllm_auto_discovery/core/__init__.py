"""Pure decisions of the model manager: no asyncio, no clock, no files."""
