"""A file per verb, each told top to bottom, its undo beside it: the only place where areas and machine meet."""
